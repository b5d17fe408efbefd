"""Splitting and thinning labelled rows so that every class keeps its share."""

from __future__ import annotations

import torch
from torch import Tensor

from fedguard.errors import ConfigurationError
from fedguard.randomness import SERVER, generator

_SEED = 0
"""Data sets are split and thinned alike in every run, so that accuracies compare across seeds."""


def _shuffled_ranks(labels: Tensor, purpose: str) -> tuple[Tensor, Tensor]:
    """Return each row's rank in its shuffled class, and the size of its class; both (N,)."""
    order = torch.randperm(len(labels), generator=generator(_SEED, 0, SERVER, purpose))
    by_class = order[torch.argsort(labels[order], stable=True)]
    sizes = torch.bincount(labels)
    firsts = torch.cumsum(sizes, 0) - sizes
    ranks = torch.empty_like(labels)
    ranks[by_class] = torch.arange(len(labels)) - firsts[labels[by_class]]
    return ranks, sizes[labels]


def stratified_split(labels: Tensor, test_fraction: float) -> tuple[Tensor, Tensor]:
    """Split rows into training and test rows, class by class, the same way every time.

    Parameters
    ----------
    labels : Tensor
        (N,) int64 classes; every class that occurs needs at least 2 rows.
    test_fraction : float
        Share of each class that becomes test rows, rounded, but at least 1 row and not all.

    Returns
    -------
    tuple of Tensor
        Training and test row numbers, ascending.
    """
    ranks, sizes = _shuffled_ranks(labels, "test split")
    wanted = torch.round(sizes * test_fraction).long()
    is_test = ranks < torch.minimum(wanted.clamp(min=1), sizes - 1)
    return (~is_test).nonzero().flatten(), is_test.nonzero().flatten()


def stratified_sample(labels: Tensor, count: int | None, field: str) -> Tensor:
    """Return `count` row numbers, ascending, with every class in proportion; all if None.

    Parameters
    ----------
    labels : Tensor
        (N,) int64 classes.
    count : int, optional
        Rows to keep, 1 to N.
    field : str
        Configuration field that an error names, and the purpose of the random stream.

    Raises
    ------
    ConfigurationError
        If there are not so many rows.
    """
    if count is None:
        return torch.arange(len(labels))
    if not 1 <= count <= len(labels):
        raise ConfigurationError(field, count, f"1 to {len(labels)}, the rows there are")
    ranks, sizes = _shuffled_ranks(labels, field)
    shares = (ranks + 0.5) / sizes
    return torch.argsort(shares, stable=True)[:count].sort().values


def check_samples(field: str, count: int | None) -> None:
    """Raise `ConfigurationError` unless `count` is None or a whole number >= 1."""
    if count is not None and (isinstance(count, bool) or count < 1):
        raise ConfigurationError(field, count, "a whole number >= 1")
