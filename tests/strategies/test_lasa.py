from __future__ import annotations

import numpy as np
import torch
from references import random_rows, relative_error

from fedguard.strategies.lasa import LASA, median_z, sign_purity, sparsify
from fedguard.testing import honest_updates, with_deltas


def test_sparsify_keeps_the_largest_by_size():
    rows = torch.tensor([[0.1, -5.0, 2.0, 0.3]])
    assert sparsify(rows, 0.5).tolist() == [[0.0, -5.0, 2.0, 0.0]]


def test_sign_purity_and_median_z():
    assert sign_purity(torch.tensor([[1.0, 1.0, 0.0, -1.0]])).tolist() == [2 / 3]
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
