"""Fairness over clients and groups, by hand and against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedguard.metrics.fairness import FIGURES, fairness, minority_of


def test_twelve_clients_by_hand():
    values = {c: 0.5 + 0.04 * c for c in range(12)}  # 0.50, 0.54, ... 0.94
    group_of = {c: "east" if c < 3 else "west" for c in range(11)}  # client 11 has none
    found = fairness(values, group_of, "east", higher_is_better=True)
    assert found is not None
    assert found.client_mean == pytest.approx(0.72)
    assert found.worst_decile == pytest.approx(0.52)  # two of twelve: a tenth, rounded up
    assert found.client_spread == pytest.approx(0.04 * math.sqrt((12**2 - 1) / 12))
    assert found.groups == pytest.approx({"east": 0.54, "west": 0.76})
    assert found.group_gap == pytest.approx(0.22)
    assert found.minority == pytest.approx(0.54)
    assert tuple(found.figures) == FIGURES


def test_where_lower_is_better_the_worst_are_the_highest():
    found = fairness({0: 3.0, 1: 9.0, 2: 5.0}, {}, None, higher_is_better=False)
    assert found is not None
    assert found.worst_decile == 9.0
    assert found.group_gap is None
    assert found.minority is None


def test_a_model_that_is_destroyed_for_a_client_is_the_worst_there_is():
    found = fairness({0: 0.8, 1: math.nan}, {0: "a", 1: "b"}, "b", higher_is_better=True)
    assert found is not None
    assert (found.client_mean, found.worst_decile, found.minority) == (0.4, 0.0, 0.0)
    lost = fairness({0: 2.0, 1: math.nan}, {0: "a", 1: "b"}, "a", higher_is_better=False)
    assert lost is not None
    assert lost.worst_decile == lost.client_spread == lost.group_gap == math.inf
    assert lost.minority == 2.0


def test_nobody_and_one():
    assert fairness({}, {}, None, higher_is_better=True) is None
    one = fairness({4: 0.7}, {4: "a"}, "a", higher_is_better=True)
    assert one is not None
    assert (one.client_mean, one.worst_decile, one.client_spread) == (0.7, 0.7, 0.0)
    assert one.group_gap is None


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.booleans())
def test_against_numpy(values, higher):
    found = fairness(dict(enumerate(values)), {}, None, higher_is_better=higher)
    assert found is not None
    ordered = np.sort(np.array(values))[:: 1 if higher else -1]
    assert found.client_mean == pytest.approx(np.mean(values))
    assert found.client_spread == pytest.approx(np.std(values), abs=1e-12)
    assert found.worst_decile == pytest.approx(ordered[: -(-len(values) // 10)].mean())


def test_the_minority_holds_the_fewest_rows():
    assert minority_of({"b": 30, "a": 30, "c": 90}) == "a"
    assert minority_of({"b": 3, "a": 30}) == "b"
    assert minority_of({"a": 30}) is None
    assert minority_of({}) is None
