"""Disguised: any attack that crafts updates, whose members' updates are made unlike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard import registry
from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import directions, norm
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import ConfigurationError, check_number
from fedguard.updates import ClientUpdates

_PASSED_ON = (
    *("prepare", "poison", "local_step", "state", "load_state", "trigger", "measure"),
    *("bind", "meet", "remarks"),
)
"""Hooks that are the inner attack's own."""


class Disguised(Attack):
    r"""Let a coalition send what another attack crafts, each member with noise of its own.

    Directions are drawn anew in each round. Over the coalition
    the noise adds up to zero, so its mean stays what it was; only that its members send copies no
    longer shows. With one member nothing changes.

    Ours, as the simplest answer to filters of copies. Baruch, Baruch and Goldberg, "A Little Is
    Enough: Circumventing Defenses For Distributed Learning", NeurIPS 2019, and those who followed
    let all members send one vector; Fung et al. (see `Sybils`) add such noise.

    Parameters
    ----------
    attack : str or mapping
        Name of the inner attack, or its name and arguments.
    noise : float
        Length of the noise in lengths of the update, above 0; 0.3 makes two members' distance
        about 0.4 of their length.

    Notes
    -----
    .. math::
       d_i' = d_i + q \left( \frac{1}{f} \sum_{j=1}^{f} \lVert d_j \rVert \right)
       \left( u_i - \frac{1}{f} \sum_{j=1}^{f} u_j \right)

    where :math:`d_i` is what the inner attack crafts for member i of f, :math:`u_i` a random
    direction of length 1, and q is `noise`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.disguised import Disguised
    >>> from fedguard.updates import ClientUpdates
    >>> own = ClientUpdates.from_matrix(torch.tensor([[3.0, 4.0], [1.0, 2.0]]), node_ids=[4, 7])
    >>> seen = Knowledge("partial", own, 5, 2, 1, torch.Generator().manual_seed(0))
    >>> sent = Disguised(attack={"name": "ipm", "epsilon": 1.0}).craft(own, seen)
    >>> [round(value, 4) for value in sent.mean(dim=0).tolist()]
    [-2.0, -3.0]
    >>> bool((sent[0] == sent[1]).all())
    False
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="gray", stealth="hidden", variability="dynamic"
    )

    def __init__(self, *, attack: str | Mapping[str, Any] = "min-max", noise: float = 0.3) -> None:
        check_number("noise", noise, above=0.0)
        told = {"name": attack} if isinstance(attack, str) else dict(attack)
        name = str(told.pop("name", ""))
        inner = registry.create("attack", name, **told)
        if (
            not isinstance(inner, Attack)
            or "updates" not in inner.needs
            or isinstance(inner, Disguised)
        ):
            allowed = "an attack that crafts updates, such as min-max, alie or ipm"
            raise ConfigurationError("attack", name, allowed)
        self.inner = inner
        self.noise = noise
        self.needs = inner.needs  # type: ignore[misc]
        self.tasks = inner.tasks  # type: ignore[misc]
        self.finite = inner.finite  # type: ignore[misc]
        self.backdoor = inner.backdoor  # type: ignore[misc]
        for hook in _PASSED_ON:
            setattr(self, hook, getattr(inner, hook))

    @property
    def target_class(self) -> int | None:  # type: ignore[override]
        """Class that the inner backdoor aims at."""
        return self.inner.target_class

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) disguised deltas; see `Attack.craft`."""
        crafted = self.inner.craft(coalition, knowledge)
        rows = crafted[:, : coalition.layout.num_trainable]
        if len(rows) < 2 or not bool(torch.isfinite(rows).all()):
            return crafted
        drawn = directions(rows.shape, knowledge.generator).to(rows)
        drawn -= drawn.mean(dim=0)
        length = sum(norm(row) for row in rows) / len(rows)
        disguised = crafted.clone()
        disguised[:, : coalition.layout.num_trainable] += self.noise * length * drawn
        return disguised
