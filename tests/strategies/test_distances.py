from __future__ import annotations

import numpy as np
import pytest
import torch
from references import distances64, random_rows

from fedguard.strategies.toolkit import distances
from fedguard.strategies.toolkit.distances import (
    cosine_distances,
    gram_matrix,
    row_norms,
    squared_distances,
)


def test_equal_the_definition_and_the_unchunked():
    rows = random_rows(9, 1000, seed=0)
    found = squared_distances(torch.from_numpy(rows))
    np.testing.assert_allclose(found.numpy(), distances64(rows) ** 2, rtol=1e-10)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_change_nothing(monkeypatch, block):
    rows = torch.from_numpy(random_rows(6, 50, seed=1))
    centre = rows.mean(dim=0)
    whole = gram_matrix(rows, centre), row_norms(rows, centre), squared_distances(rows)
    monkeypatch.setattr(distances, "_COORDINATES_PER_BLOCK", block)
    parts = gram_matrix(rows, centre), row_norms(rows, centre), squared_distances(rows)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_a_large_common_part_costs_no_precision():
    rows = random_rows(8, 500, seed=2, std=1e-4).astype(np.float32) + np.float32(100.0)
    found = squared_distances(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, distances64(rows) ** 2, rtol=1e-9)


@pytest.mark.parametrize("at", [0, 4, 8])
def test_one_huge_row_spoils_no_other_distance(at):
    rows = np.insert(random_rows(8, 500, seed=3), at, np.float32(1e10), axis=0)
    found = squared_distances(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, distances64(rows) ** 2, rtol=1e-9)


def test_two_far_groups_keep_their_inner_distances():
    rows = random_rows(8, 300, seed=4)
    rows[:4] += np.float32(1e5)
    found = squared_distances(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, distances64(rows) ** 2, rtol=1e-9)


def test_copies_are_at_distance_zero_and_the_matrix_is_symmetric():
    rows = torch.from_numpy(random_rows(5, 100, seed=5))
    found = squared_distances(torch.cat([rows, rows[:2]]))
    assert found[0, 5] == 0.0
    assert found[1, 6] == 0.0
    assert torch.equal(found, found.T)


def test_cosine_distances_at_the_edges():
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
    found = cosine_distances(gram_matrix(rows))
    wanted = [0.0, 0.0, 1.0, 2.0, 1.0]
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=1e-15)
    assert float(found[4, 4]) == 0.0


def test_no_rows_give_an_empty_matrix():
    assert squared_distances(torch.zeros(0, 5)).shape == (0, 0)
