from __future__ import annotations

import numpy as np
import torch
from references import random_rows, updates_of

from fedguard.strategies.multi_metrics import MultiMetrics, client_metrics, whitened_scores


def test_scores_equal_the_formula():
    metrics = np.random.default_rng(0).normal(5.0, 1.0, (12, 3))
    gaps = np.abs(metrics[:, None] - metrics[None]).sum(axis=1)
    inverse = np.linalg.inv(np.cov(gaps.T))
    wanted = np.sqrt(np.einsum("ki,ij,kj->k", gaps, inverse, gaps))
    found = whitened_scores(torch.from_numpy(metrics))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-8)


def test_metrics_are_the_two_norms_and_the_cosine_of_models():
    start, rows = random_rows(1, 30, seed=1)[0], random_rows(4, 30, seed=2)
    found = client_metrics(updates_of(rows, global_vector=torch.from_numpy(start))).numpy()
    models = start.astype(np.float64) + rows
    cosine = models @ start / np.linalg.norm(models, axis=1) / np.linalg.norm(start)
    wanted = np.stack([np.abs(rows).sum(axis=1), np.linalg.norm(rows, axis=1), cosine], axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_keeps_the_asked_share_and_not_the_outliers():
    rows = random_rows(20, 100, seed=3)
    rows[:4] *= 20.0
    start = torch.from_numpy(random_rows(1, 100, seed=4)[0])
    verdict = MultiMetrics(kept_share=0.3).decide(updates_of(rows, global_vector=start))
    assert int((verdict.weights > 0).sum()) == 6
    assert {0, 1, 2, 3} <= set(verdict.reasons)
