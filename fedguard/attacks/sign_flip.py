"""Sign flip: send the opposite of one's own update."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


class SignFlip(Attack):
    r"""Each malicious client sends its own honest update with the sign turned, and scaled.

    Li et al., "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from
    Heterogeneous Datasets", AAAI 2019. Scale 1 is the plain sign flip; a larger one is the scaled
    sign flip, which reverses plain averaging once ``scale > (n - f) / f``. Needs no knowledge of
    other clients.

    Parameters
    ----------
    scale : float
        Factor, above 0.

    Notes
    -----
    .. math::
       d_i' = -s \, d_i

    where :math:`d_i` is member i's honest update and s the `scale`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.sign_flip import SignFlip
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = SignFlip(scale=2.0)
    >>> attack.craft(coalition, seen).tolist()
    [[-4.0, -2.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    alone: ClassVar[bool] = True
    tags: ClassVar[Tags | None] = Tags(edits="model", knowledge="gray", variability="dynamic")

    def __init__(self, *, scale: float = 1.0) -> None:
        check_number("scale", scale, above=0.0)
        self.scale = scale

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) flipped deltas; see `Attack.craft`."""
        return send(coalition, coalition.trainable * -self.scale)
