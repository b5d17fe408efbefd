"""The suite must fail where it should: one broken rule for every property."""

from __future__ import annotations

from typing import ClassVar, Literal
from unittest import SkipTest

import pytest
import torch

from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.fedavg import FedAvg
from fedguard.strategies.geometric_median import GeometricMedian
from fedguard.strategies.median import Median
from fedguard.testing import CHECKS, QUICK_CHECKS, check_strategy, decoy_updates, dissimilar_updates
from fedguard.testing.robustness import check_dissimilar, check_hostile_buffers
from fedguard.testing.worlds import DECOY_KINDS
from fedguard.updates import Verdict


class FirstClient(RobustStrategy):
    def combine(self, updates):
        weights = torch.zeros(len(updates), dtype=torch.float64)
        weights[0] = 1.0
        reasons = dict.fromkeys(updates.node_ids[1:], "not the first")
        return Verdict(updates.deltas[0].clone(), weights, {}, reasons)


class WritesToUpdates(Median):
    def combine(self, updates):
        verdict = super().combine(updates)
        updates.num_examples.mul_(2.0)
        return verdict


class GlobalNoise(Median):
    def combine(self, updates):
        verdict = super().combine(updates)
        return Verdict(verdict.delta + 1e-9 * torch.randn(len(verdict.delta)), verdict.weights)


class NegativeWeights(RobustStrategy):
    def combine(self, updates):
        return Verdict(updates.deltas.mean(dim=0), -uniform(len(updates)))


class SilentRejection(RobustStrategy):
    def combine(self, updates):
        weights = torch.zeros(len(updates), dtype=torch.float64)
        return Verdict(torch.zeros(updates.layout.size), weights)


class NotANumberForThree(Median):
    def combine(self, updates):
        verdict = super().combine(updates)
        value = float("nan") if len(updates) == 3 else 1.0
        scores = {"spread": torch.full((len(updates),), value)}
        return Verdict(verdict.delta, verdict.weights, scores)


class ClaimsToBeRobust(FedAvg):
    properties: ClassVar[frozenset[str]] = frozenset({"robust"})


class ClaimsTranslation(RobustStrategy):
    properties: ClassVar[frozenset[str]] = frozenset({"translation"})

    def combine(self, updates):
        return Verdict(0.5 * updates.deltas.mean(dim=0), uniform(len(updates)))


class ClaimsScale(RobustStrategy):
    properties: ClassVar[frozenset[str]] = frozenset({"scale"})

    def combine(self, updates):
        return Verdict(updates.deltas.mean(dim=0).clamp(-0.1, 0.1), uniform(len(updates)))


class KnowsIds(RobustStrategy):
    def combine(self, updates):
        good = torch.tensor([float(node < 5000) for node in updates.node_ids]).double()
        weights = good / good.sum().clamp(min=1.0)
        reasons = {n: "an id above 5000" for n in updates.node_ids if n >= 5000}
        return Verdict((weights.float() @ updates.deltas), weights, {}, reasons)


class RatesByLength(RobustStrategy):
    """Rejects the one longest update alone: a decoy makes room for everybody else."""

    properties: ClassVar[frozenset[str]] = frozenset({"robust"})

    def combine(self, updates):
        keep = updates.trainable.norm(dim=1)
        keep = keep < keep.max()
        if not bool(keep.any()):
            keep = ~keep
        weights = keep.double() / int(keep.sum())
        reasons = {n: "longest" for n, w in zip(updates.node_ids, weights, strict=True) if w == 0}
        return Verdict(weights.float() @ updates.deltas, weights, {}, reasons)


class ExemptWithoutAWord(Median):
    """Says nothing of what it is exempt from."""

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "decoy-exempt"})


class WantsCompany(Median):
    """Takes a client that is like no other for an attacker."""

    def combine(self, updates):
        verdict = super().combine(updates)
        rows = torch.nn.functional.normalize(updates.trainable.double(), dim=1)
        nearest = (rows @ rows.T).fill_diagonal_(-1.0).amax(dim=1)
        alone = (nearest < 0.1) & (len(updates) > 3)
        weights = verdict.weights * ~alone
        weights /= max(float(weights.sum()), 1e-300)
        reasons = {
            node: "no company" for node, one in zip(updates.node_ids, alone, strict=True) if one
        }
        return Verdict(verdict.delta, weights, {}, reasons)


class BelievesAnyNumber(Median):
    def __init__(self, *, radius: float = 1.0, mode: Literal["a", "b"] = "a", **base):
        super().__init__(**base)
        self.radius, self.mode = radius, mode


class MovesWithoutClients(Median):
    def decide(self, updates):
        verdict = super().decide(updates)
        return Verdict(verdict.delta + 1.0, verdict.weights)


class ScalesByAnAbsoluteLength(RobustStrategy):
    """Divides by a length that is right for ordinary updates only."""

    properties: ClassVar[frozenset[str]] = frozenset({"scale"})

    def combine(self, updates):
        norms = updates.trainable.norm(dim=1).double().clamp(min=1e-6)
        weights = (1.0 / norms) / (1.0 / norms).sum()
        return Verdict(weights.float() @ updates.deltas, weights)


class ForgetsItsState(RobustStrategy):
    last = 0.0

    def combine(self, updates):
        self.last = 0.5 * self.last + updates.deltas.mean(dim=0)
        return Verdict(self.last.clone(), uniform(len(updates)))


BROKEN = {
    FirstClient: "check_permutation: permutation, honest clients: delta: relative difference",
    RatesByLength: "check_decoy: decoy of 1e\\+09 .one entry. beside attackers of strength 60",
    ExemptWithoutAWord: "docstring does not say why",
    WantsCompany: "check_dissimilar: dissimilar honest clients, round 1: 0 of 12 kept: no company",
    BelievesAnyNumber: "check_parameters: mode='no such choice': accepted",
    MovesWithoutClients: "check_few_clients: no clients: the model moved",
    ScalesByAnAbsoluteLength: "check_scale: scale by 2.-30: delta: relative difference",
    WritesToUpdates: "wrote to num_examples",
    GlobalNoise: "global random state",
    NegativeWeights: "weight is negative",
    SilentRejection: "without a reason",
    NotANumberForThree: "holds NaN",
    ClaimsToBeRobust: "from the honest mean",
    ClaimsTranslation: "translation",
    ClaimsScale: "scale",
    KnowsIds: "no ground truth",
    ForgetsItsState: "restored rule decides differently",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda part: part.__name__)
def test_finds_what_is_broken_and_says_so(broken):
    with pytest.raises(AssertionError, match=BROKEN[broken]):
        check_strategy(broken)


def test_takes_an_instance_and_leaves_it_as_it_was():
    strategy = Median(seed=3)
    check_strategy(strategy)
    assert strategy.tools is None


def test_tells_every_failure_and_the_input_of_each():
    with pytest.raises(AssertionError) as caught:
        check_strategy(BelievesAnyNumber)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"1 of {len(CHECKS)} checks failed"
    values = ["radius=nan", "radius=inf", "radius=-inf", "radius='no number'"]
    found = [line for line in lines if "check_parameters" in line]
    assert [line.split(": ")[1] for line in found] == [*values, "mode='no such choice'"]
    with pytest.raises(AssertionError) as caught:
        check_strategy(NegativeWeights)
    failed = {line.split(":")[0] for line in str(caught.value).splitlines()[1:]}
    assert {"check_invariants", "check_hostile", "check_few_clients", "check_ties"} <= failed


def test_one_crash_does_not_hide_the_other_failures():
    class Crashes(FedAvg):
        properties: ClassVar[frozenset[str]] = frozenset({"robust"})

        def combine(self, updates):
            if len(updates) == 5:
                raise IndexError("a cohort of five")
            return super().combine(updates)

    with pytest.raises(AssertionError) as caught:
        check_strategy(Crashes)
    told = str(caught.value)
    assert "check_invariants: 5 clients: raised IndexError: a cohort of five" in told
    assert "check_hostile: hostile 1e8: " in told


def test_tells_what_was_skipped_and_why():
    found = check_strategy(FedAvg)
    assert found.skipped["check_decoy"] == "the rule does not declare 'robust'"
    assert "check_translation" in found.passed
    assert len(found.passed) + len(found.skipped) == len(CHECKS)
    assert "check_decoy skipped: the rule does not declare 'robust'" in str(found)


def test_the_quick_form_finds_what_is_grossly_wrong():
    check_strategy(Median, quick=True)  # whatever is loaded on first use is loaded now
    found = check_strategy(GeometricMedian, quick=True)
    assert found.passed == tuple(check.__name__ for check in QUICK_CHECKS)
    for broken in (WritesToUpdates, NegativeWeights):
        with pytest.raises(AssertionError):
            check_strategy(broken, quick=True)


def test_a_decoy_is_alone_and_the_attackers_are_moderate():
    for kind in DECOY_KINDS:
        updates, honest = decoy_updates(kind, 1e9, 10.0)
        centre = honest.trainable.mean(dim=0)
        away = (updates.trainable - centre).norm(dim=1) / (honest.trainable - centre).norm(
            dim=1
        ).mean()
        assert float(away[0]) > 1e7
        assert 3.0 < float(away[1:5].min()) <= float(away[1:5].max()) < 10.0
        assert float(away[5:].max()) < 1.5
        assert torch.equal(updates.deltas[5:], honest.deltas)
        assert not updates.malformed
    aside, _ = decoy_updates("at right angles", 1e9, 10.0)
    cosine = torch.nn.functional.cosine_similarity(aside.trainable[0], centre, dim=0)
    assert abs(float(cosine)) < 1e-5


def test_dissimilar_clients_share_nothing_and_nobody_attacks():
    first, second = dissimilar_updates(1), dissimilar_updates(2)
    rows = torch.nn.functional.normalize(first.trainable.double(), dim=1)
    cosines = rows @ rows.T
    apart = cosines[~torch.eye(len(rows), dtype=torch.bool)]
    assert float(apart.max()) < 0.05
    assert float((apart < 0).double().mean()) > 0.9
    lengths = first.trainable.norm(dim=1)
    assert float(lengths.max() / lengths.min()) < 1.2
    again = torch.nn.functional.cosine_similarity(first.trainable, second.trainable, dim=1)
    assert float(again.min()) > 0.8


class KeepsSome(Median):
    """Leaves out all but some clients, for dissimilar ones in one round alone."""

    properties: ClassVar[frozenset[str]] = frozenset({"robust"})
    kept, in_round = 6, 2

    def combine(self, updates):
        verdict = super().combine(updates)
        if updates.server_round != self.in_round:
            return verdict
        weights = torch.zeros(len(updates), dtype=torch.float64)
        weights[: self.kept] = 1.0 / self.kept
        reasons = dict.fromkeys(updates.node_ids[self.kept :], "one too many")
        return Verdict(verdict.delta, weights, {}, reasons)


@pytest.mark.parametrize("server_round", [1, 2, 3])
def test_half_of_dissimilar_clients_are_enough_and_one_fewer_is_not(server_round):
    class KeepsFive(KeepsSome):
        kept, in_round = 5, server_round

    check_dissimilar(KeepsSome)
    with pytest.raises(AssertionError) as caught:
        check_dissimilar(KeepsFive)
    assert f"round {server_round}: 5 of 12 kept: one too many" in str(caught.value)
    assert str(caught.value).count("kept") == 1


def test_dissimilar_clients_are_no_matter_of_rules_that_say_so_or_claim_nothing():
    class Excused(KeepsSome):
        """Keeps none of the dissimilar, by design."""

        properties: ClassVar[frozenset[str]] = frozenset({"robust", "dissimilar-exempt"})
        kept, in_round = 1, 1

    for rule, words in ((Excused, "its docstring says why"), (FedAvg, "does not declare 'robust'")):
        with pytest.raises(SkipTest, match=words):
            check_dissimilar(rule)


def test_a_rule_that_averages_statistics_is_told_how_far_they_moved():
    class MeanOfBuffers(Median):
        def combine(self, updates):
            verdict = super().combine(updates)
            first = updates.layout.num_trainable
            verdict.delta[first:] = updates.deltas[:, first:].mean(dim=0)
            return verdict

    with pytest.raises(AssertionError) as caught:
        check_hostile_buffers(MeanOfBuffers)
    assert str(caught.value).count("a BatchNorm statistic moved by 2e+08") == 2
