"""The suite must fail where it should: one broken rule for every property."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.fedavg import FedAvg
from fedguard.strategies.median import Median
from fedguard.testing import check_strategy
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


class ForgetsItsState(RobustStrategy):
    last = 0.0

    def combine(self, updates):
        self.last = 0.5 * self.last + updates.deltas.mean(dim=0)
        return Verdict(self.last.clone(), uniform(len(updates)))


BROKEN = {
    FirstClient: "permutation",
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
