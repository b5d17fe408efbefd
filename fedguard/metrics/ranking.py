"""Ranks of items in a recommender's list, and what fake profiles look like."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_ranks(scores: Tensor, wanted: Tensor) -> Tensor:
    """Return the (B,) float64 ranks from 0 of one item per row, the mean over ties.

    A model that scores all items alike ranks each in the middle, not first. Scores that are NaN
    are taken for the lowest.

    Parameters
    ----------
    scores : Tensor
        (B, V) scores; minus infinity for items that are not in the list.
    wanted : Tensor
        (B,) int64 item of each row, which counts as in the list.
    """
    low = torch.finfo(scores.dtype).min
    # Numbers out of range stay in the list; what was left out of it does not come back.
    listed = scores != -torch.inf
    clean = scores.nan_to_num(nan=low, posinf=torch.finfo(scores.dtype).max)
    own = clean.gather(1, wanted[:, None]).nan_to_num(neginf=low)
    above = (clean > own) & listed
    level = (clean == own) & listed
    level.scatter_(1, wanted[:, None], False)
    return above.sum(dim=1).double() + level.sum(dim=1).double() / 2.0


def unique_share(profiles: Tensor) -> float:
    """Return the mean share of different items among those of a profile, (M, L), 0 for none."""
    shares = [len(set(row)) / max(len(row), 1) for row in _items(profiles)]
    return sum(shares) / max(len(shares), 1)


def mean_jaccard(profiles: Tensor) -> float:
    """Return the mean over pairs of profiles of shared items by items of either; 0 for one."""
    sets = [set(row) for row in _items(profiles)]
    pairs = [(a, b) for place, a in enumerate(sets) for b in sets[:place]]
    return sum(len(a & b) / max(len(a | b), 1) for a, b in pairs) / max(len(pairs), 1)


def _items(profiles: Tensor) -> list[list[int]]:
    return [[item for item in row if item > 0] for row in profiles.tolist()]
