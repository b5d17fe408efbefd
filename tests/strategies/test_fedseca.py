from __future__ import annotations

import numpy as np
import pytest
import torch
from references import aggregate, random_rows, relative_error, updates_of

from fedguard.strategies import fedseca
from fedguard.strategies.fedseca import FedSECA, concordance, reputations


def fedseca64(rows, kept_share=0.1):
    """The paper's steps, a client and a coordinate at a time."""
    wide = rows.astype(np.float64)
    size = wide.shape[1]
    omega = [[np.mean(np.sign(a) * np.sign(b)) for b in wide] for a in wide]
    rho = np.maximum(0.0, np.sign(omega).mean(axis=1))
    elected = np.sign((rho[:, None] * np.sign(wide)).sum(axis=0))
    norms = np.linalg.norm(wide, axis=1)
    clipped = wide * np.minimum(1.0, np.median(norms) / norms)[:, None]
    caps = np.median(np.abs(clipped), axis=0)
    clamped = np.sign(clipped) * np.minimum(np.abs(clipped), caps)
    for row in clamped:
        smallest_first = np.argsort(np.abs(row))
        row[smallest_first[: size - round(kept_share * size)]] = 0.0
    out = np.zeros(size)
    for d in range(size):
        agreeing = [v for v in clamped[:, d] if v != 0 and np.sign(v) == elected[d]]
        out[d] = np.mean(agreeing) if agreeing else 0.0
    return out


@pytest.mark.parametrize(("count", "share", "seed"), [(9, 0.1, 0), (12, 0.4, 1), (15, 1.0, 2)])
def test_equals_the_formula(count, share, seed):
    rows = random_rows(count, 400, seed)
    rows[:3] *= -7.0
    found = aggregate(FedSECA(kept_share=share), rows)
    assert relative_error(found, fedseca64(rows, share)) < 1e-6


def test_blocks_change_nothing(monkeypatch):
    rows = random_rows(10, 300, seed=5)
    whole = aggregate(FedSECA(), rows)
    monkeypatch.setattr(fedseca, "_ENTRIES_PER_BLOCK", 70)
    np.testing.assert_array_equal(aggregate(FedSECA(), rows), whole)


def test_clients_against_the_majority_elect_nothing():
    rows = random_rows(10, 400, seed=6)
    rows[:3] *= -50.0
    verdict = FedSECA(kept_share=1.0).decide(updates_of(rows))
    assert verdict.scores["reputation"][:3].tolist() == [0.0, 0.0, 0.0]
    assert float(verdict.scores["reputation"][3:].min()) > 0.3
    mean = rows[3:].mean(axis=0)
    large = np.abs(mean) > 0.1
    assert (np.sign(verdict.delta.numpy())[large] == np.sign(mean)[large]).all()


def test_where_nobody_agrees_all_vote_alike():
    rows = np.array([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
    verdict = FedSECA(kept_share=1.0).decide(updates_of(rows))
    assert verdict.scores["reputation"].tolist() == [1.0, 1.0, 1.0]
    np.testing.assert_allclose(verdict.delta.numpy(), [-1.0, -1.0, -1.0])


def test_concordance_and_reputation_by_hand():
    found = concordance(torch.tensor([[1.0, -2.0, 0.0], [3.0, 4.0, 5.0], [-1.0, 2.0, 0.0]]))
    wanted = np.array([[2.0, 0.0, -2.0], [0.0, 3.0, 0.0], [-2.0, 0.0, 2.0]]) / 3.0
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    # Signs + 0 -, 0 + 0, - 0 +: only the second client has more friends than foes.
    np.testing.assert_allclose(reputations(found), [0.0, 1 / 3, 0.0])


@pytest.mark.parametrize(("share", "wanted"), [(1.0, [2.1, 2.8]), (0.5, [0.0, 2.8])])
def test_clipping_and_keeping_by_hand(share, wanted):
    rows = np.array([[3.0, 4.0], [6.0, 8.0], [0.3, 0.4]])  # norms 5, 10 and 0.5
    np.testing.assert_allclose(aggregate(FedSECA(kept_share=share), rows), wanted, rtol=1e-6)


def test_who_agrees_nowhere_weighs_nothing_and_the_others_by_their_entries():
    rows = np.array([[3.0, 4.0], [3.0, 4.0], [4.0, -3.0], [-3.0, -4.0], [np.nan, 1.0]])
    verdict = FedSECA(kept_share=1.0).decide(updates_of(rows))
    assert verdict.weights.tolist() == pytest.approx([0.4, 0.4, 0.2, 0.0])
    assert verdict.reasons == {3: "no entry has the elected sign"}
    np.testing.assert_allclose(verdict.delta, [3.0, 4.0], rtol=1e-6)


def test_one_client_keeps_its_largest_entry_and_zeros_stay_zeros():
    np.testing.assert_allclose(aggregate(FedSECA(), np.array([[1.0, -5.0, 2.0]])), [0.0, -5.0, 0.0])
    assert not aggregate(FedSECA(), np.zeros((3, 4))).any()
