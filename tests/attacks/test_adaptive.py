"""Attacks that search against a copy of the deployed rule."""

from __future__ import annotations

import math

import pytest
import torch

from fedguard.attacks.adaptive_alie import AdaptiveAlie
from fedguard.attacks.adaptive_gemini import AdaptiveGemini, diameter_bound, output_layer
from fedguard.attacks.adaptive_ipm import AdaptiveIpm
from fedguard.attacks.adaptive_weidetect import AdaptiveWeiDetect
from fedguard.attacks.alie import Alie
from fedguard.attacks.ipm import Ipm
from fedguard.attacks.toolkit.rehearsal import Rehearsal, line_search
from fedguard.strategies.krum import Krum
from fedguard.strategies.median import Median
from fedguard.strategies.trimmed_mean import TrimmedMean
from fedguard.updates import ClientUpdates, ParameterLayout
from tests.attacks.worlds import a_round, rows

RULES = {
    "krum": Krum(assumed_malicious=0.25),
    "median": Median(),
    "trimmed mean": TrimmedMean(assumed_malicious=0.25),
}


def _copy_of(name):
    return lambda updates: RULES[name].combine(updates).delta


def _deviation(rule, knowledge, crafted):
    honest = knowledge.updates.deltas
    answer = rule(ClientUpdates.from_matrix(torch.cat([honest, crafted])))
    return float((answer - honest.mean(dim=0)).norm())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("adaptive", "plain"),
    [
        (AdaptiveAlie, [Alie(z=z) for z in (0.1, 0.5, 1.0, 1.5, 3.0)]),
        (AdaptiveIpm, [Ipm(epsilon=epsilon) for epsilon in (0.1, 0.5, 1.0, 3.0)]),
    ],
)
def test_searched_attacks_hurt_at_least_as_much_as_fixed_ones(name, adaptive, plain):
    rule = _copy_of(name)
    coalition, knowledge = a_round(rows(16, mean=0.02), 4, aggregate=rule)
    found = _deviation(rule, knowledge, adaptive().craft(coalition, knowledge))
    fixed = [_deviation(rule, knowledge, other.craft(coalition, knowledge)) for other in plain]
    assert found >= 0.98 * max(fixed)


def test_line_search_finds_an_inner_maximum_within_its_budget():
    calls = []

    def damage(factor):
        calls.append(factor)
        return -((factor - 3.3) ** 2)

    assert line_search(damage, 10.0, 30) == pytest.approx(3.3, abs=0.01)
    assert len(calls) <= 30


@pytest.mark.parametrize("evaluations", [1, 2, 3, 7])
def test_line_search_works_with_few_evaluations_and_bad_values(evaluations):
    assert 0.0 < line_search(lambda factor: math.nan, 5.0, evaluations) <= 5.0
    calls = []
    line_search(lambda factor: calls.append(factor) or factor, 5.0, evaluations)
    assert len(calls) <= evaluations


def test_line_search_takes_the_smallest_of_equal_factors():
    assert line_search(lambda factor: 1.0, 8.0, 6) <= 2.0
    assert line_search(lambda factor: factor, 8.0, 12) == 8.0


def test_rehearsal_stages_the_round_that_will_be():
    seen = []

    def rule(updates):
        seen.append(updates)
        return updates.deltas.mean(dim=0)

    coalition, knowledge = a_round(rows(8), 2, aggregate=rule)
    Rehearsal(coalition, knowledge)(torch.ones(300))
    assert seen[0].deltas.shape == (8, 300)
    assert torch.equal(seen[0].deltas[:6], knowledge.updates.deltas)
    assert torch.equal(seen[0].deltas[6:], torch.ones(2, 300))
    assert len(set(seen[0].node_ids)) == 8


def test_rehearsal_with_partial_knowledge_keeps_the_coalitions_share():
    seen = []

    def rule(updates):
        seen.append(updates)
        return updates.deltas.mean(dim=0)

    coalition, knowledge = a_round(rows(20), 8, scope="partial", aggregate=rule)
    Rehearsal(coalition, knowledge)(torch.ones(300))
    crafted = int((seen[0].deltas == 1.0).all(dim=1).sum())
    assert len(seen[0]) - crafted == 8
    assert crafted / len(seen[0]) == pytest.approx(8 / 20, abs=0.03)


def _layout():
    names = ("body.weight", "body.bias", "head.weight", "head.bias")
    return ParameterLayout(names, ((200,), (20,), (70,), (10,)), ("float32",) * 4, 4, names)


def test_output_layer_is_the_last_pair_of_tensors():
    assert output_layer(_layout()) == 2
    assert output_layer(ParameterLayout.flat(5)) == 0


def test_gemini_keeps_honest_distances_within_the_coalition():
    coalition, knowledge = a_round(rows(16), 4, aggregate=_copy_of("median"), layout=_layout())
    crafted = AdaptiveGemini().craft(coalition, knowledge)
    assert torch.allclose(torch.pdist(crafted), torch.pdist(coalition.deltas), rtol=1e-3)
    shift = crafted - coalition.deltas
    assert torch.allclose(shift, shift[:1].expand_as(shift), atol=1e-5)
    assert float(shift[0] @ knowledge.updates.deltas.mean(dim=0)) < 0


def test_gemini_retreats_to_the_output_layer_where_the_rule_looks_at_the_rest():
    names = _layout()

    def rule(updates):
        body = updates.deltas[:, :220]
        near = (body - body.median(dim=0).values).norm(dim=1)
        return updates.deltas[near < 1.3 * near.median()].mean(dim=0)

    coalition, knowledge = a_round(rows(16), 4, aggregate=rule, layout=names)
    shift = (AdaptiveGemini(stretch=50.0).craft(coalition, knowledge) - coalition.deltas)[0]
    assert torch.equal(shift[:220], torch.zeros(220))
    assert shift[220:].norm() > 1.0


def test_gemini_bound_is_the_largest_step_within_the_diameter():
    deltas = rows(12)
    push = -deltas[2:].mean(dim=0)
    gamma = diameter_bound(deltas[:1], deltas[2:], push)
    diameter = torch.pdist(deltas[2:].double()).max()
    moved = (deltas[0].double() + gamma * push.double() - deltas[2:].double()).norm(dim=1).max()
    assert moved.item() == pytest.approx(diameter.item(), rel=1e-5)


def test_gemini_without_a_copy_of_the_rule_moves_by_the_bound():
    coalition, knowledge = a_round(rows(12), 2, layout=_layout())
    mean = knowledge.updates.deltas.mean(dim=0)
    gamma = diameter_bound(coalition.deltas, knowledge.updates.deltas, -mean)
    crafted = AdaptiveGemini().craft(coalition, knowledge)
    assert torch.allclose(crafted, coalition.deltas - gamma * mean, atol=1e-5)


def test_weidetect_sends_the_largest_multiple_that_a_score_lets_through():
    deltas = rows(16)
    deltas[:4] += 0.2

    def rule(updates):
        return updates.deltas[updates.deltas.norm(dim=1) < 12.0].mean(dim=0)

    coalition, knowledge = a_round(deltas, 4, aggregate=rule)
    crafted = AdaptiveWeiDetect(evaluations=30).craft(coalition, knowledge)
    factor = float(crafted[0] @ deltas[0] / (deltas[0] @ deltas[0]))
    assert torch.allclose(crafted, factor * deltas[:4], atol=1e-4)
    sizes = crafted.norm(dim=1)
    assert sizes.max() < 12.0
    assert sizes.max() > 11.0


def test_weidetect_flips_one_class():
    attack = AdaptiveWeiDetect(source_class=2, target_class=5)
    attack.bind(10, (8,))
    y = torch.arange(30) % 10
    _, flipped = attack.poison(torch.zeros(30, 8), y, torch.Generator())
    assert (flipped[y == 2] == 5).all()
    assert torch.equal(flipped[y != 2], y[y != 2])
