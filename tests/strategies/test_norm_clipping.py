from __future__ import annotations

import numpy as np
import pytest
from references import aggregate, random_rows, relative_error, updates_of

from fedguard.strategies.norm_clipping import NormClipping


@pytest.mark.parametrize("bound", [None, 0.5, 100.0])
def test_equals_the_definition(bound):
    rows = random_rows(9, 80, seed=0)
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    limit = np.median(norms) if bound is None else bound
    wanted = (wide * np.minimum(1.0, limit / norms)[:, None]).mean(axis=0)
    assert relative_error(aggregate(NormClipping(max_norm=bound), rows), wanted) < 1e-6


def test_noise_has_the_asked_spread_and_differs_by_round_and_seed():
    rows = np.zeros((3, 20_000))
    noise = aggregate(NormClipping(noise_std=0.025), rows)
    assert abs(noise.std() / 0.025 - 1) < 0.05
    assert abs(noise.mean()) < 1e-3
    other = NormClipping(noise_std=0.025, seed=1)
    assert not np.allclose(noise, aggregate(other, rows))
    later = NormClipping(noise_std=0.025).decide(updates_of(rows, server_round=2)).delta
    assert not np.allclose(noise, later.numpy())


def test_no_client_moves_the_model_further_than_its_share_of_the_bound():
    rows = np.zeros((4, 3))
    rows[0] = [0.0, 0.0, 1e9]
    np.testing.assert_allclose(aggregate(NormClipping(max_norm=2.0), rows), [0.0, 0.0, 0.5])
