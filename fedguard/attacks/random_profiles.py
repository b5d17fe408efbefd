"""Random profiles: fake users who take the target among items drawn at random."""

from __future__ import annotations

import torch

from fedguard.attacks.toolkit.fake_users import FakeUsers


class RandomProfiles(FakeUsers):
    """Every `every`-th item of a fake history is the target, the others are drawn uniformly.

    Lam and Riedl, "Shilling Recommender Systems for Fun and Profit", WWW 2004, as sequences; the
    control of crafted histories. For the arguments see `FakeUsers`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.random_profiles import RandomProfiles
    >>> from fedguard.data.clicks_sample import ClicksSample
    >>> attack = RandomProfiles(item="item-007", length=8, every=4)
    >>> attack.meet(ClicksSample().load(None))
    >>> [history] = attack.invented(1, torch.Generator().manual_seed(0))
    >>> [place for place, item in enumerate(history) if item == attack.target]
    [3, 7]
    """

    def invented(self, count: int, rng: torch.Generator) -> list[list[int]]:
        """Return histories of different items; see `FakeUsers.invented`."""
        known = torch.arange(1, len(self.histories.ids))
        known = known[known != self.target]
        found = []
        for _ in range(count):
            order = torch.randperm(len(known), generator=rng)
            drawn = known[order.repeat(-(-self.others // len(known)))[: self.others]]
            found.append(self.filled(drawn.tolist()))
        return found
