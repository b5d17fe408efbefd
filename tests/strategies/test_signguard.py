from __future__ import annotations

import numpy as np
import torch
from references import random_rows, relative_error, updates_of

from fedguard.strategies.signguard import SignGuard, sign_shares


def test_sign_shares_add_up():
    rows = torch.tensor([[1.0, -2.0, 0.0, 3.0]])
    assert sign_shares(rows).tolist() == [[0.5, 0.25, 0.25]]


def test_norm_filter_and_sign_filter_each_catch_their_kind():
    rows = random_rows(20, 5000, seed=0)
    rows[0] *= 30.0
    rows[1] *= 0.01
    rows[2:5] = -rows[2:5]
    verdict = SignGuard().decide(updates_of(rows))
    assert "norm" in verdict.reasons[0]
    assert "norm" in verdict.reasons[1]
    for client in (2, 3, 4):
        assert "signs" in verdict.reasons[client]
    kept = verdict.weights.numpy() > 0
    assert kept.sum() >= 12
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    clipped = rows * np.minimum(1.0, np.median(norms) / norms)[:, None]
    assert relative_error(verdict.delta, clipped[kept].mean(axis=0)) < 1e-5
