from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedguard.encryption.grouping import client_view, draw_groups, group_updates, make_rule
from fedguard.encryption.protocol.weights import (
    GroupMean,
    downscaled,
    exponent_of,
    upscaled,
    weight_limit,
)
from fedguard.errors import ConfigurationError
from fedguard.updates import ClientUpdates, ParameterLayout, Verdict


@given(
    st.sets(st.integers(0, 10**6), min_size=1, max_size=80), st.integers(0, 12), st.integers(0, 9)
)
def test_groups_divide_the_cohort_evenly_and_are_large_enough(cohort, size, seed):
    groups = draw_groups(list(cohort), size, seed)
    assert sorted(party for group in groups for party in group) == sorted(cohort)
    lengths = [len(group) for group in groups]
    assert max(lengths) - min(lengths) <= 1
    assert all(list(group) == sorted(group) for group in groups)
    if len(groups) > 1:
        assert min(lengths) >= size > 0
    assert groups == draw_groups(sorted(cohort, reverse=True), size, seed)


def test_groups_depend_on_the_seed():
    assert draw_groups(range(30), 3, 0) != draw_groups(range(30), 3, 1)


def test_a_rule_is_told_the_worst_fraction_of_bad_groups():
    assert make_rule("trimmed-mean", 3, 0.1, 0).assumed_malicious == pytest.approx(0.3)
    assert make_rule("trimmed-mean", 5, 0.3, 0).assumed_malicious == pytest.approx(0.49)
    chosen = make_rule({"name": "trimmed-mean", "assumed_malicious": 0.2}, 3, 0.1, 0)
    assert chosen.assumed_malicious == pytest.approx(0.2)
    with pytest.raises(ConfigurationError):
        make_rule({"name": "median", "nonsense": 1}, 3, 0.1, 0)


def means() -> list[GroupMean]:
    return [
        GroupMean(np.full(4, 1.0), 30.0, 0.0, (5, 9)),
        GroupMean(np.full(4, 2.0), 60.0, 0.0, (1, 7, 8)),
    ]


def test_each_client_has_the_fate_of_its_group():
    bare = ClientUpdates.from_matrix(torch.zeros(0, 4), global_vector=torch.zeros(4))
    seen = group_updates(means(), bare)
    verdict = Verdict(
        torch.ones(4),
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        {"distance": torch.tensor([0.5, 9.0])},
        {1: "too far"},
    )
    updates, view = client_view(means(), seen, verdict, {3: "no reply"})
    assert updates.node_ids == (1, 5, 7, 8, 9)
    assert view.weights.tolist() == [0, 0.5, 0, 0, 0.5]
    assert view.scores["distance"].tolist() == [9, 0.5, 9, 9, 0.5]
    assert view.reasons == dict.fromkeys((1, 7, 8), "its group's mean was rejected: too far")
    assert updates.num_examples.tolist() == [20, 15, 20, 20, 15]
    assert updates.malformed == {3: "no reply"}
    assert updates.deltas[:, 0].tolist() == [2, 1, 2, 2, 1]


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=40))
def test_the_weight_limit_covers_half_the_clients_whoever_lies(counts):
    exponents = [exponent_of(count) for count in counts]
    limit = weight_limit(exponents)
    assert limit & (limit - 1) == 0
    within = sum(count <= limit for count in counts)
    assert within >= len(counts) / 2
    honest = [count for count in counts if count <= 1000]
    if len(honest) > len(counts) / 2:
        assert limit <= 8 * 1024


def test_integer_buffers_are_scaled_there_and_back():
    layout = ParameterLayout(("w", "steps"), ((2,), ()), ("float32", "int64"), 1, ("w", "steps"))
    delta = torch.tensor([0.5, -0.5, 2048.0])
    small = downscaled(delta, layout)
    assert small.tolist() == [0.5, -0.5, 2.0]
    assert torch.equal(upscaled(small, layout), delta)
    flat = ParameterLayout.flat(3)
    assert downscaled(delta, flat) is delta
