from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedguard.data.sampling import stratified_sample, stratified_split
from fedguard.errors import ConfigurationError

SIZES = st.lists(st.integers(2, 40), min_size=1, max_size=8)


def labels_of(sizes: list[int]) -> torch.Tensor:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]


@given(sizes=SIZES, fraction=st.floats(0.01, 0.99))
def test_a_split_divides_each_class(sizes: list[int], fraction: float) -> None:
    labels = labels_of(sizes)
    train, test = stratified_split(labels, fraction)
    assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(len(labels)))
    tested = labels[test].bincount(minlength=len(sizes)).tolist()
    for size, count in zip(sizes, tested, strict=True):
        assert 1 <= count <= size - 1
        assert abs(count - fraction * size) <= 1


@given(sizes=SIZES, data=st.data())
def test_a_sample_keeps_the_proportions(sizes: list[int], data: st.DataObject) -> None:
    labels = labels_of(sizes)
    count = data.draw(st.integers(1, len(labels)))
    rows = stratified_sample(labels, count, "dataset.train_samples")
    assert len(rows.unique()) == count
    kept = labels[rows].bincount(minlength=len(sizes)).tolist()
    assert all(abs(k - count * s / len(labels)) <= 1 for k, s in zip(kept, sizes, strict=True))
    assert torch.equal(rows, stratified_sample(labels, count, "dataset.train_samples"))


def test_a_larger_sample_contains_the_smaller() -> None:
    labels = labels_of([50, 30, 20])
    small, large = (set(stratified_sample(labels, n, "x").tolist()) for n in (10, 40))
    assert small < large


def test_no_count_keeps_every_row() -> None:
    assert stratified_sample(labels_of([3, 4]), None, "x").tolist() == list(range(7))


@pytest.mark.parametrize("count", [0, 8, -1])
def test_an_impossible_count_is_refused(count: int) -> None:
    with pytest.raises(ConfigurationError, match=r"dataset\.train_samples.*1 to 7"):
        stratified_sample(labels_of([3, 4]), count, "dataset.train_samples")
