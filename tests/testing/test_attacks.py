"""The attack suite passes on the registered attacks and fails on broken ones."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from fedguard import registry
from fedguard.attacks.badnets import BadNets
from fedguard.attacks.base import Attack
from fedguard.attacks.label_flip import LabelFlip
from fedguard.attacks.sign_flip import SignFlip
from fedguard.testing import ATTACK_CHECKS, QUICK_ATTACK_CHECKS, check_attack


class OneRow(Attack):
    def craft(self, coalition, knowledge):
        return knowledge.mean


class InPlace(Attack):
    def craft(self, coalition, knowledge):
        coalition.deltas.mul_(-1.0)
        return coalition.deltas


class GlobalNoise(Attack):
    def craft(self, coalition, knowledge):
        return torch.randn_like(coalition.deltas)


class CopiesTheFirst(Attack):
    def craft(self, coalition, knowledge):
        return knowledge.updates.deltas[:1].expand(len(coalition), -1).clone()


class WrongLabels(Attack):
    def poison(self, x, y, rng):
        return x, y + 1


class StampsOriginals(Attack):
    backdoor: ClassVar[bool] = True
    target_class = 0

    def trigger(self, x):
        x[..., :3, :3] = 1.0
        return x


class Silent(Attack):
    backdoor: ClassVar[bool] = True
    target_class = 0


class NeverCalled(Attack):
    def local_step(self, step, update):
        for value in step.parameters:
            value.grad.neg_()
        update()


class BelievesAnyNumber(Attack):
    needs: ClassVar[frozenset[str]] = frozenset({"updates"})

    def __init__(self, *, scale: float = 2.0) -> None:
        self.scale = scale

    def craft(self, coalition, knowledge):
        return coalition.deltas * self.scale


class FlipsOneLabelPerExample(Attack):
    needs: ClassVar[frozenset[str]] = frozenset({"data"})

    def poison(self, x, y, rng):
        return x, torch.zeros(len(y), dtype=y.dtype)


class Wanders(Attack):
    needs: ClassVar[frozenset[str]] = frozenset({"training"})

    def local_step(self, step, update):
        update()
        with torch.no_grad():
            step.start[0].add_(1.0)


class SendsWideNumbers(Attack):
    needs: ClassVar[frozenset[str]] = frozenset({"updates"})

    def craft(self, coalition, knowledge):
        rows = coalition.deltas.double()
        return rows if knowledge.scope == "full" else coalition.deltas / 0.0


BROKEN = {
    NeverCalled: "check_needs: local_step: never called: 'training' is not among its needs",
    BelievesAnyNumber: "check_attack_parameters: scale=nan: accepted",
    FlipsOneLabelPerExample: "check_poison_sequences: .* labels became",
    Wanders: "local step changed the global model",
    SendsWideNumbers: "craft, 1 of 5 clients, full knowledge: torch.float64, not float32",
    OneRow: "craft",
    InPlace: "no mutation",
    GlobalNoise: "determinism",
    CopiesTheFirst: "permutation",
    WrongLabels: "label lies outside",
    StampsOriginals: "no mutation",
    Silent: "changes nothing",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda part: part.__name__)
def test_finds_what_is_broken_and_says_so(broken):
    with pytest.raises(AssertionError, match=BROKEN[broken]):
        check_attack(broken)


@pytest.mark.parametrize("check", ATTACK_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", registry.names("attack"))
def test_attack_conforms(name, check):
    check(lambda: registry.create("attack", name))


def test_tells_every_failure_and_the_input_of_each():
    with pytest.raises(AssertionError) as caught:
        check_attack(SendsWideNumbers)
    told = [line for line in str(caught.value).splitlines() if "check_craft_shape" in line]
    assert len(told) == 8  # four sizes of coalition, two kinds of knowledge
    assert sum("not finite" in line for line in told) == 4


def test_tells_what_was_skipped_and_why():
    found = check_attack(SignFlip)
    assert list(found.skipped) == ["check_poison_sequences"]
    assert "every task" in found.skipped["check_poison_sequences"]
    assert len(found.passed) == len(ATTACK_CHECKS) - 1
    assert "check_poison_sequences" in check_attack(LabelFlip).passed


def test_the_quick_form_finds_what_is_grossly_wrong():
    found = check_attack(BadNets, quick=True)
    assert found.passed == tuple(check.__name__ for check in QUICK_ATTACK_CHECKS)
    for broken in (NeverCalled, InPlace, StampsOriginals, Wanders):
        with pytest.raises(AssertionError):
            check_attack(broken, quick=True)


def test_an_attack_of_another_family_with_a_misspelt_need_is_found():
    class Foreign:
        needs = frozenset({"update"})
        finite, backdoor, target_class, tasks = True, False, None, None
        bind = prepare = lambda *_: None

        def craft(self, coalition, knowledge):
            return coalition.deltas

    with pytest.raises(AssertionError, match="check_needs: needs 'update': unknown; one of"):
        check_attack(Foreign)
