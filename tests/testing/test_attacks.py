"""The attack suite passes on the registered attacks and fails on broken ones."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from fedguard import registry
from fedguard.attacks.base import Attack
from fedguard.testing import ATTACK_CHECKS, check_attack


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


BROKEN = {
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
