"""Framing: of what is tried, that is sent after which fewest honest clients are left."""

from __future__ import annotations

import torch

from fedguard.attacks.framing import Framing
from fedguard.updates import ClientUpdates, Verdict
from tests.attacks.worlds import a_round, rows


def copies_rejected(updates):
    """Reject whoever lies next to another."""
    apart = torch.cdist(updates.deltas, updates.deltas).fill_diagonal_(float("inf"))
    keep = (apart.min(dim=1).values > 0.1 * updates.deltas.norm(dim=1)).float()
    share = keep / keep.sum().clamp(min=1.0)
    return Verdict(share @ updates.deltas, share)


def loners_rejected(updates):
    """Keep whoever has another near, as near as is usual in the round."""
    apart = torch.cdist(updates.deltas, updates.deltas).fill_diagonal_(float("inf"))
    nearest = apart.min(dim=1).values
    keep = (nearest <= 2.0 * nearest.median()).float()
    share = keep / keep.sum()
    return Verdict(share @ updates.deltas, share)


def sent(rule, deltas, malicious=3, **options):
    verdicts = None if rule is None else lambda rounds: [rule(updates) for updates in rounds]
    coalition, seen = a_round(deltas, malicious, verdicts=verdicts)
    return Framing(**options).craft(coalition, seen), seen.updates.deltas


def left_by(rule, crafted, honest):
    weights = rule(ClientUpdates.from_matrix(torch.cat([honest, crafted]))).weights
    return int((weights[: len(honest)] > 0).sum())


def test_a_rule_against_copies_loses_a_client_for_each_member():
    crafted, honest = sent(copies_rejected, rows(12))
    nearest = torch.cdist(crafted, honest).argmin(dim=1)
    assert len(set(nearest.tolist())) == 3
    assert left_by(copies_rejected, crafted, honest) == len(honest) - 3


def test_a_rule_against_loners_is_given_a_crowd():
    crafted, honest = sent(loners_rejected, rows(12), malicious=7)
    assert left_by(loners_rejected, crafted, honest) == 0
    assert float(torch.pdist(crafted).max()) < 0.1 * float(torch.pdist(honest).min())
    shadows = honest[:1].expand(7, -1) + 1e-3 * rows(7)
    assert left_by(loners_rejected, shadows, honest) == 1, "the one that all shadow is no loner"


def test_without_a_copy_those_that_stand_out_are_shadowed():
    deltas = rows(12)
    deltas[5] *= 4.0
    deltas[9] *= 3.0
    crafted, _ = sent(None, deltas, malicious=2, noise=0.0)
    assert torch.equal(crafted, deltas[[5, 9]])


def test_more_members_than_others_shadow_the_same_ones_again():
    crafted, honest = sent(None, rows(6), malicious=4, noise=0.0)
    assert len(honest) == 2
    assert torch.equal(crafted[:2], crafted[2:])


def test_no_two_vectors_are_equal():
    crafted, _ = sent(loners_rejected, rows(12), malicious=7, noise=0.05)
    assert float(torch.pdist(crafted).min()) > 0.0


def test_who_sees_no_others_is_told_that_nobody_is_shadowed():
    assert Framing().remarks("full") == []
    (told,) = Framing().remarks("partial")
    assert "attack_knowledge=full" in told
