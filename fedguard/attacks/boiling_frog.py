"""Boiling frog: the same push in every round, at first hardly, then ever harder."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import norm, send, visible_updates
from fedguard.attacks.toolkit.rehearsal import Rehearsal
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates

_STEPS = (-2, -1, 0, 1)
"""Powers of the growth that a round may take; the smallest of equally good ones is sent."""


class BoilingFrog(Attack):
    r"""Push one way in every round, at first hardly, then ever harder.

    Every member adds the same push to its honest update: back along the way that honest clients
    have gone in all attacked rounds, which turns slowly, so that the pushes add up. Its length
    grows by one factor from round to round; a copy of the deployed rule is asked, several rounds
    ahead and with what it remembers, whether to grow, stay or step back. Where the rule cannot be
    copied it grows all the same.

    A reading of the boiling frog of Rubinstein, Nelson, Huang, Joseph, Lau, Rao, Taft and Tygar,
    "ANTIDOTE: Understanding and Defending against Poisoning of Anomaly Detectors", IMC 2009, who
    poison a detector's training a little more every week; the push is on updates here, and the
    rehearsal is ours.

    Parameters
    ----------
    start : float
        Length of the first push, in mean lengths of the visible honest updates, above 0.
    growth : float
        Factor from round to round, above 1.
    most : float
        Largest length, at least `start`.
    ahead : int
        Rounds that are rehearsed, at least 1; others' updates are taken to stay as they are.

    Notes
    -----
    .. math::
       d_a' = d_a + \beta_t \ell_t u, \qquad
       u = - \frac{\sum_{s \le t} \bar{d}_s}{\lVert \sum_{s \le t} \bar{d}_s \rVert}, \qquad
       \beta_t = \operatorname{argmax}_{\beta \in \{\beta_{t-1} g^k: -2 \le k \le 1\}}
       \left\langle \sum_{s=0}^{H-1} R_s(d_1, \ldots, d_h, d_a + \beta g^s \ell_t u, \ldots),
       u \right\rangle

    where :math:`d_a` are the coalition's honest updates, :math:`d_1, \ldots, d_h` others',
    :math:`\bar{d}_s` is the mean of the visible ones in round s, :math:`\ell_t` their mean length
    in this one, g is `growth`, H is `ahead`, and :math:`R_s` the copied rule s rounds later. No
    :math:`\beta` is above `most`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.boiling_frog import BoilingFrog
    >>> from fedguard.updates import ClientUpdates
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[3.0, 4.0]]), node_ids=[9])
    >>> seen = Knowledge("partial", coalition, 3, 1, 1, torch.Generator())
    >>> attack = BoilingFrog(start=0.2, growth=2.0)
    >>> [[round(v, 4) for v in attack.craft(coalition, seen)[0].tolist()] for _ in range(2)]
    [[2.4, 3.2], [1.8, 2.4]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "aggregate"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="white", stealth="hidden", variability="dynamic"
    )

    def __init__(
        self, *, start: float = 0.1, growth: float = 1.5, most: float = 10.0, ahead: int = 3
    ) -> None:
        check_number("start", start, above=0.0)
        check_number("growth", growth, above=1.0)
        check_number("most", most, at_least=start)
        check_number("ahead", ahead, at_least=1)
        self.start = start
        self.growth = growth
        self.most = most
        self.ahead = ahead
        self._memory: dict[str, Tensor] = {}

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) pushed deltas; see `Attack.craft`."""
        if not len(coalition):
            return coalition.deltas
        rows = visible_updates(coalition, knowledge).trainable
        gone = self._gone(rows.mean(dim=0))
        if not norm(gone) > 0.0:
            return coalition.deltas
        length = sum(norm(row) for row in rows) / len(rows)
        push = -length / norm(gone) * gone.to(coalition.deltas)
        level = self._level(coalition, knowledge, push)
        self._memory["level"] = torch.tensor(level, dtype=torch.float64)
        return send(coalition, coalition.trainable + level * push)

    def _gone(self, mean: Tensor) -> Tensor:
        """Return the (T,) way that honest clients have gone up to now; remember it."""
        before = self._memory.get("gone")
        here = mean.detach().to("cpu", torch.float64)
        self._memory["gone"] = here if before is None else before + here
        return self._memory["gone"]

    def _level(self, coalition: ClientUpdates, knowledge: Knowledge, push: Tensor) -> float:
        """Return the length of this round's push, in lengths of honest updates."""
        if "level" not in self._memory:
            return self.start
        last = float(self._memory["level"])
        if knowledge.aggregate is None:
            return min(last * self.growth, self.most)
        rehearse = Rehearsal(coalition, knowledge)

        def gain(level: float) -> float:
            lengths = [min(level * self.growth**later, self.most) for later in range(self.ahead)]
            moved = rehearse.ahead([coalition.trainable + each * push for each in lengths])
            found = float(moved.to(torch.float64) @ push.to(torch.float64))
            return found if math.isfinite(found) else -math.inf

        return max(sorted({min(last * self.growth**k, self.most) for k in _STEPS}), key=gain)

    def state(self) -> dict[str, Tensor]:
        """Return the way that was gone and the last length."""
        return dict(self._memory)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take it back; see `Attack.load_state`."""
        self._memory = dict(state)
