from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from references import random_rows
from scipy.stats import trim_mean

from fedguard.strategies.toolkit import coordinates
from fedguard.strategies.toolkit.coordinates import (
    central_mean,
    coordinate_median,
    mean_around_median,
)

MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 6)),
    elements=st.floats(-1e6, 1e6, width=32),
)


@settings(max_examples=60, deadline=None)
@given(MATRICES)
def test_median_equals_numpys(rows):
    found = coordinate_median(torch.from_numpy(rows)).numpy()
    wanted = np.median(rows.astype(np.float64), axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_central_mean_equals_scipys_trimmed_mean(share):
    rows = random_rows(10, 40, seed=0)
    trim = round(share * 10)
    found = central_mean(torch.from_numpy(rows), trim, 10 - trim).numpy()
    wanted = trim_mean(rows.astype(np.float64), share, axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(MATRICES, st.integers(1, 9))
def test_mean_around_median_equals_the_definition(rows, nearest):
    nearest = min(nearest, len(rows))
    found = mean_around_median(torch.from_numpy(rows), nearest).numpy()
    wide = rows.astype(np.float64)
    gaps = np.abs(wide - np.median(wide, axis=0))
    near = gaps <= np.sort(gaps, axis=0)[nearest - 1]
    wanted = np.where(near, wide, 0.0).sum(axis=0) / near.sum(axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("entries", [1, 30, 10_000])
def test_blocks_change_nothing(monkeypatch, entries):
    rows = torch.from_numpy(random_rows(8, 37, seed=1))
    whole = coordinate_median(rows), central_mean(rows, 2, 6), mean_around_median(rows, 5)
    monkeypatch.setattr(coordinates, "_ENTRIES_PER_BLOCK", entries)
    parts = coordinate_median(rows), central_mean(rows, 2, 6), mean_around_median(rows, 5)
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)


def test_huge_values_leave_the_others_digits_alone():
    rows = random_rows(9, 20, seed=2)
    hostile = torch.from_numpy(np.concatenate([rows, np.full((2, 20), 1e10, np.float32)]))
    found = mean_around_median(hostile, 9).numpy()
    assert np.abs(found).max() < 1.0
