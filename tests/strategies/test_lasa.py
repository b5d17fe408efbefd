from __future__ import annotations

import numpy as np
import pytest
import torch
from references import random_rows, relative_error

from fedguard.strategies import lasa
from fedguard.strategies.lasa import LASA, layer_statistics, median_z, size_limits, sparse_blocks
from fedguard.testing import honest_updates, with_deltas


def test_sparsify_keeps_the_largest_by_size():
    rows = torch.tensor([[0.1, -5.0, 2.0, 0.3]])
    limits = size_limits(rows, 0.5)
    assert limits.tolist() == [2.0]
    ((_, sparse),) = sparse_blocks(rows, limits)
    assert sparse.tolist() == [[0.0, -5.0, 2.0, 0.0]]


@pytest.mark.parametrize("entries", [1, 60, 10**6])
def test_blocks_change_no_statistic(monkeypatch, entries):
    rows = torch.from_numpy(random_rows(6, 50, seed=3))
    limits = size_limits(rows, 0.4)
    monkeypatch.setattr(lasa, "_ENTRIES_PER_BLOCK", entries)
    norms, purities = layer_statistics(rows, limits)
    sparse = np.where(np.abs(rows.numpy()) >= limits.numpy()[:, None], rows.double().numpy(), 0.0)
    assert ((sparse != 0).sum(axis=1) == 20).all()
    np.testing.assert_allclose(norms.numpy(), np.linalg.norm(sparse, axis=1), rtol=1e-12)
    np.testing.assert_allclose(purities.numpy(), (sparse > 0).sum(axis=1) / 20, rtol=1e-12)


def test_sign_purity_and_median_z():
    _, purity = layer_statistics(torch.tensor([[1.0, 1.0, 0.0, -1.0]]), torch.zeros(1))
    assert purity.tolist() == [2 / 3]
    values = torch.from_numpy(random_rows(1, 9, seed=0)[0].astype(np.float64))
    wanted = np.abs(values.numpy() - np.median(values)) / values.numpy().std()
    np.testing.assert_allclose(median_z(values).numpy(), wanted)
    assert not median_z(torch.full((5,), 0.3)).any()


def test_a_client_can_be_unusual_in_one_layer_only():
    updates = honest_updates(10)
    layout = updates.layout
    deltas = updates.deltas.clone()
    first = slice(layout.offsets[0], layout.offsets[1])
    deltas[0, first] = -deltas[0, first].abs() * 1.2
    verdict = LASA(norm_radius=2.0, sign_radius=2.0).decide(with_deltas(updates, deltas))
    assert 0 < float(verdict.weights[0]) < float(verdict.weights.median())


def test_with_wide_radii_it_is_the_mean_of_clipped_sparse_updates():
    updates = honest_updates(8)
    size = updates.layout.num_trainable
    rows = updates.trainable.double().numpy()
    norms = np.linalg.norm(rows, axis=1)
    clipped = rows * np.minimum(1.0, np.median(norms) / norms)[:, None]
    wanted = clipped.mean(axis=0)
    rule = LASA(kept_share=1.0, norm_radius=1e6, sign_radius=1e6)
    assert relative_error(rule.decide(updates).delta[:size], wanted) < 1e-5
