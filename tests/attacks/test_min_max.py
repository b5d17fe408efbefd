"""Min-Max and Min-Sum against distances computed pair by pair."""

from __future__ import annotations

import pytest
import torch

from fedguard.attacks.min_max import MinMax
from fedguard.attacks.min_sum import MinSum
from tests.attacks.worlds import a_round, rows

DIRECTIONS = ["std", "unit", "sign"]


def _squared(a, b):
    return (a.double()[:, None] - b.double()[None]).square().sum(-1)


def _push(seen, direction):
    mean = seen.double().mean(dim=0)
    if direction == "std":
        return -seen.double().std(dim=0, unbiased=False)
    return -mean / mean.norm() if direction == "unit" else -mean.sign()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("count", [4, 12])
def test_min_max_reaches_the_honest_diameter_and_no_more(direction, count):
    coalition, knowledge = a_round(rows(count), 2)
    seen = knowledge.updates.deltas
    crafted = MinMax(direction=direction).craft(coalition, knowledge)
    diameter = _squared(seen, seen).max().sqrt()
    assert _squared(crafted, seen).max().sqrt().item() == pytest.approx(diameter.item(), rel=1e-5)
    further = crafted[:1].double() + 1e-3 * _push(seen, direction)
    assert _squared(further, seen).max().sqrt() > diameter


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_min_sum_reaches_the_largest_honest_sum_and_no_more(direction):
    coalition, knowledge = a_round(rows(12), 2)
    seen = knowledge.updates.deltas
    crafted = MinSum(direction=direction).craft(coalition, knowledge)
    bound = _squared(seen, seen).sum(dim=1).max().item()
    assert _squared(crafted[:1], seen).sum().item() == pytest.approx(bound, rel=1e-5)
    further = crafted[:1].double() + 1e-3 * _push(seen, direction)
    assert _squared(further, seen).sum() > bound


@pytest.mark.parametrize("attack", [MinMax, MinSum])
def test_lies_along_the_direction(attack):
    coalition, knowledge = a_round(rows(12), 2)
    seen = knowledge.updates.deltas.double()
    moved = attack(direction="unit").craft(coalition, knowledge)[0].double() - seen.mean(dim=0)
    cosine = moved @ _push(seen, "unit") / moved.norm()
    assert cosine.item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("attack", [MinMax, MinSum])
def test_identical_updates_leave_no_room(attack):
    coalition, knowledge = a_round(rows(1).expand(6, -1).clone(), 2)
    crafted = attack(direction="unit").craft(coalition, knowledge)
    assert torch.allclose(crafted, coalition.deltas, atol=1e-6)


@pytest.mark.parametrize("attack", [MinMax, MinSum])
def test_one_visible_update_is_moved_by_its_own_norm(attack):
    coalition, knowledge = a_round(rows(5), 1, scope="partial")
    moved = attack(direction="unit").craft(coalition, knowledge) - coalition.deltas
    assert moved.norm().item() == pytest.approx(coalition.deltas.norm().item(), rel=1e-5)


def test_min_sum_is_more_careful_than_min_max():
    coalition, knowledge = a_round(rows(12), 2)
    mean = knowledge.updates.deltas.mean(dim=0)
    near = (MinSum().craft(coalition, knowledge)[0] - mean).norm()
    far = (MinMax().craft(coalition, knowledge)[0] - mean).norm()
    assert near <= far * (1.0 + 1e-6)
