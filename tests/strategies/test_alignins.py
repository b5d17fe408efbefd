from __future__ import annotations

import numpy as np
import pytest
import torch
from references import random_rows, relative_error, updates_of

from fedguard.strategies.alignins import AlignIns, principal_sign_alignment, temporal_alignment


def measures64(rows, start, share):
    """The two measures in loops over clients and coordinates."""
    wide = rows.astype(np.float64)
    elected = np.sign(np.sign(wide).sum(axis=0))
    tda, mpsa = [], []
    for row in wide:
        tda.append(row @ start / np.linalg.norm(row) / np.linalg.norm(start))
        largest = np.argsort(-np.abs(row))[: round(share * len(row))]
        mpsa.append(np.mean([np.sign(row[d]) == elected[d] for d in largest]))
    return np.array(tda), np.array(mpsa)


def alignins64(rows, start, share=0.3, radius=1.0):
    wide = rows.astype(np.float64)
    keep = np.ones(len(rows), dtype=bool)
    for measure in measures64(rows, start, share):
        keep &= np.abs(measure - np.median(measure)) / measure.std() < radius
    kept = wide[keep]
    norms = np.linalg.norm(kept, axis=1)
    bound = np.median(norms)
    return np.mean([row * min(1.0, bound / n) for row, n in zip(kept, norms, strict=True)], axis=0)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_formula(seed):
    rows = random_rows(14, 331, seed)
    rows[:3] *= 4.0
    start = random_rows(1, 331, seed + 50)[0]
    updates = updates_of(rows, global_vector=torch.from_numpy(start))
    tda, mpsa = measures64(rows, start.astype(np.float64), 0.3)
    np.testing.assert_allclose(temporal_alignment(updates).numpy(), tda, atol=1e-9)
    found = principal_sign_alignment(updates.trainable, 0.3).numpy()
    np.testing.assert_allclose(found, mpsa, atol=1e-12)
    delta = AlignIns().decide(updates).delta.numpy()
    assert relative_error(delta, alignins64(rows, start.astype(np.float64))) < 1e-6


def test_a_backdoor_that_turns_its_large_entries_is_left_out():
    rows = random_rows(20, 500, seed=9, mean=0.2)
    rows[:4, :120] *= -3.0
    start = torch.from_numpy(random_rows(1, 500, seed=10)[0])
    verdict = AlignIns().decide(updates_of(rows, global_vector=start))
    assert {0, 1, 2, 3} <= set(verdict.reasons)
    assert "cosine with the model -0.006" in verdict.reasons[0]
    mpsa = verdict.scores["mpsa"]
    assert float(mpsa[:4].max()) < float(mpsa[4:].min())
    assert int((verdict.weights > 0).sum()) >= 6


def test_the_model_stays_where_nobody_is_aligned():
    rows = np.array([[1.0, 0.0], [-1.0, 0.0]])
    start = torch.tensor([1.0, 0.0])
    verdict = AlignIns().decide(updates_of(rows, global_vector=start))
    assert not verdict.delta.any()
    assert len(verdict.reasons) == 2


def test_a_model_of_zeros_tells_no_direction_and_rejects_nobody_for_it():
    verdict = AlignIns(sign_share=1.0).decide(updates_of(np.ones((5, 4))))
    np.testing.assert_allclose(verdict.delta.numpy(), 1.0)
    assert not verdict.reasons
