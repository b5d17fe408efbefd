"""Fang's attacks against the rules they are made for."""

from __future__ import annotations

import pytest
import torch

from fedguard.attacks.fang_krum import FangKrum
from fedguard.attacks.fang_trim import FangTrim
from fedguard.strategies.krum import Krum
from fedguard.strategies.trimmed_mean import TrimmedMean
from fedguard.updates import ClientUpdates
from tests.attacks.worlds import a_round, rows


def _cohort(coalition, knowledge, crafted):
    return ClientUpdates.from_matrix(torch.cat([crafted, knowledge.updates.deltas]))


@pytest.mark.parametrize(("count", "malicious"), [(10, 2), (20, 4), (20, 6), (50, 10)])
def test_krum_selects_the_crafted_update(count, malicious):
    coalition, knowledge = a_round(rows(count, mean=0.02), malicious)
    crafted = FangKrum().craft(coalition, knowledge)
    updates = _cohort(coalition, knowledge, crafted)
    verdict = Krum(assumed_malicious=malicious / count).combine(updates)
    assert torch.allclose(verdict.delta, crafted[0])
    assert verdict.weights[malicious:].sum() == 0


def test_krums_choice_points_against_the_honest_direction():
    coalition, knowledge = a_round(rows(20, mean=0.02), 4)
    crafted = FangKrum().craft(coalition, knowledge)[0]
    sign = knowledge.updates.deltas.mean(dim=0).sign()
    assert torch.equal(crafted.sign(), -sign)
    assert crafted.abs().unique().numel() == 1


def test_a_larger_step_than_the_one_found_is_not_selected_or_was_the_bound():
    coalition, knowledge = a_round(rows(20, mean=0.02), 4)
    crafted = FangKrum().craft(coalition, knowledge)
    updates = _cohort(coalition, knowledge, 2.0 * crafted)
    verdict = Krum(assumed_malicious=0.2).combine(updates)
    assert not torch.allclose(verdict.delta, 2.0 * crafted[0])


def test_krum_attack_with_partial_knowledge_stays_against_its_own_direction():
    coalition, knowledge = a_round(rows(20, mean=0.02), 5, scope="partial")
    crafted = FangKrum().craft(coalition, knowledge)
    sign = coalition.deltas.mean(dim=0).sign()
    assert torch.equal(crafted.sign(), -sign.expand(5, -1))


def test_trim_draws_from_the_papers_intervals():
    start = 0.3 * torch.randn(300, generator=torch.Generator().manual_seed(3))
    coalition, knowledge = a_round(rows(12), 3, global_vector=start)
    models = start + knowledge.updates.deltas
    low, high = models.amin(dim=0), models.amax(dim=0)
    up = knowledge.updates.deltas.mean(dim=0) > 0
    floor = torch.where(up, torch.where(low > 0, low / 2, 2 * low), high)
    roof = torch.where(up, low, torch.where(high > 0, 2 * high, high / 2))
    sent = start + FangTrim(b=2.0).craft(coalition, knowledge)
    assert (sent >= floor - 1e-5).all()
    assert (sent <= roof + 1e-5).all()
    assert not torch.equal(sent[0], sent[1])


def test_trim_with_partial_knowledge_stays_three_to_four_deviations_away():
    coalition, knowledge = a_round(rows(12), 4, scope="partial")
    own = coalition.deltas
    mean, sigma = own.mean(dim=0), own.std(dim=0, unbiased=False)
    away = (FangTrim().craft(coalition, knowledge) - mean) / (-mean.sign() * sigma)
    assert away.min() > 3.0 - 1e-3
    assert away.max() < 4.0 + 1e-3


def test_trim_moves_the_trimmed_mean_against_every_honest_direction():
    coalition, knowledge = a_round(rows(20, mean=0.02), 4)
    honest = knowledge.updates.deltas.mean(dim=0)
    updates = _cohort(coalition, knowledge, FangTrim().craft(coalition, knowledge))
    moved = TrimmedMean(assumed_malicious=0.2).combine(updates).delta - honest
    assert (moved * honest.sign() < 0).float().mean() > 0.99
