"""Bandwagon: fake users who take the target among the items that everybody takes."""

from __future__ import annotations

from typing import Any

import torch

from fedguard.attacks.toolkit.fake_users import FakeUsers
from fedguard.errors import check_number


class Bandwagon(FakeUsers):
    """Every `every`-th item of a fake history is the target, the others are drawn from the popular.

    O'Mahony, Hurley and Silvestre, "Recommender Systems: Attack Types and Strategies", AAAI 2005,
    as sequences. Which items are popular is taken for public, as best-seller lists are.

    Parameters
    ----------
    popular : float
        Share of the items, most frequent ones first, that count as popular, above 0 to 1.
    **frame : Any
        Arguments of `FakeUsers`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.bandwagon import Bandwagon
    >>> from fedguard.data.clicks_sample import ClicksSample
    >>> attack = Bandwagon(item="item-007", length=8, every=4)
    >>> attack.meet(ClicksSample().load(None))
    >>> [history] = attack.invented(1, torch.Generator().manual_seed(0))
    >>> [place for place, item in enumerate(history) if item == attack.target]
    [3, 7]
    """

    def __init__(self, *, popular: float = 0.1, **frame: Any) -> None:
        super().__init__(**frame)
        check_number("popular", popular, above=0.0, at_most=1.0)
        self.popular = popular

    def invented(self, count: int, rng: torch.Generator) -> list[list[int]]:
        """Return histories of popular items, none twice as long as they last."""
        counts = self.histories.popularity[1:].double()
        order = counts.argsort(descending=True, stable=True) + 1
        known = order[: max(1, round(self.popular * len(order)))]
        known = known[known != self.target] if len(known) > 1 else known
        found = []
        for _ in range(count):
            drawn = known[torch.randperm(len(known), generator=rng)]
            drawn = drawn.repeat(-(-self.others // len(drawn)))[: self.others]
            found.append(self.filled(drawn.tolist()))
        return found
