"""Numerical adversary: values that break arithmetic rather than learning."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_choice
from fedguard.updates import ClientUpdates

Mode = Literal["nan", "inf", "negative-inf", "huge", "denormal", "one-nan", "one-huge"]

_VALUES = {
    "nan": math.nan,
    "inf": math.inf,
    "negative-inf": -math.inf,
    "huge": 1e30,
    "denormal": 1e-40,
    "one-nan": math.nan,
    "one-huge": 1e30,
}


class Numerical(Attack):
    r"""Each malicious client sends values that break arithmetic.

    What a faulty or hostile client can do with no knowledge at all: a rule that sums before it
    looks returns NaN for everybody. Buffers are attacked as well.

    Parameters
    ----------
    mode : str
        ``"nan"``, ``"inf"``, ``"negative-inf"``, ``"huge"`` (1e30), ``"denormal"`` (1e-40),
        ``"one-nan"`` or ``"one-huge"``.

    Notes
    -----
    .. math::
       d_{ij}' = c \; \text{ for every } j, \qquad \text{one-...:} \;
       d_{ij}' = \begin{cases} c & \text{if } j = j_i \\ d_{ij} & \text{otherwise} \end{cases}

    where :math:`d_{ij}` is coordinate j of member i's honest update, c the mode's value, and
    :math:`j_i` a coordinate that is drawn.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.numerical import Numerical
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = Numerical(mode="inf")
    >>> attack.craft(coalition, seen).tolist()
    [[inf, inf]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    finite: ClassVar[bool] = False
    tags: ClassVar[Tags | None] = Tags(edits="model")

    def __init__(self, *, mode: Mode = "nan") -> None:
        check_choice("mode", mode, _VALUES)
        self.mode = mode

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas; see `Attack.craft`."""
        value = _VALUES[self.mode]
        crafted = coalition.deltas.clone()
        if not self.mode.startswith("one-"):
            return crafted.fill_(value)
        if crafted.numel():
            columns = torch.randint(
                crafted.shape[1], (len(crafted), 1), generator=knowledge.generator
            )
            crafted.scatter_(1, columns, value)
        return crafted
