from __future__ import annotations

import numpy as np
import pytest
from references import aggregate, random_rows, relative_error, updates_of

from fedguard.strategies.foundationfl import FoundationFL
from fedguard.strategies.median import Median


def foundation64(rows, base_rule, share=0.5, assumed=0.25):
    wide = rows.astype(np.float64)
    high, low = wide.max(axis=0), wide.min(axis=0)
    scores = [min(np.linalg.norm(row - high), np.linalg.norm(row - low)) for row in wide]
    copies = np.repeat(wide[[int(np.argmax(scores))]], int(share * len(rows)), axis=0)
    ordered = np.sort(np.concatenate([wide, copies]), axis=0)
    if base_rule == "median":
        return np.median(ordered, axis=0)
    trim = int(np.ceil(assumed * len(rows)))
    return ordered[trim : len(ordered) - trim].mean(axis=0)


@pytest.mark.parametrize("base_rule", ["median", "trimmed-mean"])
@pytest.mark.parametrize(("count", "seed"), [(7, 0), (12, 1), (25, 2)])
def test_equals_the_formula(base_rule, count, seed):
    rows = random_rows(count, 300, seed)
    rows[:2] -= 1.5
    found = aggregate(FoundationFL(base_rule=base_rule), rows)
    assert relative_error(found, foundation64(rows, base_rule)) < 1e-6


def test_without_copies_it_is_the_median():
    rows = random_rows(9, 40, seed=3)
    found = aggregate(FoundationFL(synthetic_share=0.0), rows)
    np.testing.assert_array_equal(found, aggregate(Median(), rows))


def test_the_copied_client_is_an_inner_one():
    rows = random_rows(20, 400, seed=4)
    rows[:4] += 30.0
    scores = FoundationFL().decide(updates_of(rows)).scores["distance_to_extremes"]
    assert int(scores.argmax()) >= 4
    assert float(scores[:4].max()) < float(scores[4:].min())


def test_two_clients_share_the_copies():
    found = aggregate(FoundationFL(), np.array([[0.0, 4.0], [2.0, 0.0]]))
    np.testing.assert_allclose(found, [1.0, 2.0])
