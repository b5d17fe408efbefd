from __future__ import annotations

import numpy as np
import torch
from references import random_rows, relative_error, updates_of

from fedguard.strategies.flame import FLAME, model_gram
from fedguard.strategies.toolkit.distances import cosine_distances


def _world(hostile: int):
    """Honest clients share a direction; hostile ones go the other way."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=400)
    rows = 0.1 * common + random_rows(15, 400, seed=1, mean=0.0, std=0.05)
    rows[:hostile] = -0.3 * common + random_rows(hostile, 400, seed=2, mean=0.0, std=0.01)
    return rows.astype(np.float32)


def test_rejects_the_minority_and_clips_to_the_median_norm():
    rows = _world(5)
    verdict = FLAME(noise_multiplier=0.0).decide(updates_of(rows))
    assert set(range(5)) <= set(verdict.reasons)
    kept = verdict.weights.numpy() > 0
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    clipped = rows * np.minimum(1.0, np.median(norms) / norms)[:, None]
    assert relative_error(verdict.delta, clipped[kept].mean(axis=0)) < 1e-5


def test_noise_is_lambda_times_the_median_norm():
    rows = random_rows(9, 20_000, seed=3)
    quiet = FLAME(noise_multiplier=0.0).decide(updates_of(rows)).delta
    noisy = FLAME(noise_multiplier=0.01).decide(updates_of(rows)).delta
    wanted = 0.01 * float(np.median(np.linalg.norm(rows, axis=1)))
    assert abs(float((noisy - quiet).std()) / wanted - 1) < 0.05


def test_the_cosine_is_one_of_whole_models():
    start = torch.from_numpy(random_rows(1, 50, seed=4)[0])
    rows = random_rows(4, 50, seed=5, std=1e-4, mean=0.0)
    updates = updates_of(rows, global_vector=start)
    models = start.double().numpy() + rows.astype(np.float64)
    unit = models / np.linalg.norm(models, axis=1, keepdims=True)
    found = cosine_distances(model_gram(updates)).numpy()
    np.testing.assert_allclose(found, 1 - unit @ unit.T, atol=1e-14)
