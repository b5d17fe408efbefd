from __future__ import annotations

import math

import pytest
import torch

from fedguard.attacks.mimic import Mimic
from fedguard.attacks.rop import Rop
from tests.attacks.worlds import a_round, rows


def test_mimic_copies_the_client_furthest_along_the_main_direction():
    deltas = rows(9, std=0.01)
    axis = torch.randn(300, generator=torch.Generator().manual_seed(2))
    deltas[2:] += torch.linspace(0.0, 1.5, 7).square()[:, None] * axis
    coalition, knowledge = a_round(deltas, 2)
    assert torch.equal(Mimic().craft(coalition, knowledge), deltas[8:].expand(2, -1))


def test_mimic_sends_an_honest_update_of_somebody_else():
    coalition, knowledge = a_round(rows(9), 2)
    crafted = Mimic().craft(coalition, knowledge)
    assert any(torch.equal(crafted[0], row) for row in knowledge.updates.deltas)


def test_mimic_agrees_with_the_singular_value_decomposition():
    coalition, knowledge = a_round(rows(12), 2)
    seen = knowledge.updates.deltas.double()
    left = torch.linalg.svd(seen - seen.mean(dim=0), full_matrices=False).U[:, 0]
    crafted = Mimic().craft(coalition, knowledge)[0]
    assert torch.equal(crafted, knowledge.updates.deltas[int(left.abs().argmax())])


@pytest.mark.parametrize("angle", [0.0, 60.0, 90.0, 180.0])
def test_rop_pushes_off_at_the_given_angle(angle):
    last = rows(1)[0]
    coalition, knowledge = a_round(rows(8), 2, last_update=last)
    mean = knowledge.updates.deltas.mean(dim=0).double()
    attack = Rop(z=2.0, angle=angle, relocation=0.3, history=0.6)
    crafted = attack.craft(coalition, knowledge)[0].double()
    reference = 0.6 * last.double() + 0.4 * mean
    push = crafted - (0.3 * last.double() + 0.7 * mean)
    assert push.norm().item() == pytest.approx(2.0 * reference.norm().item(), rel=1e-5)
    cosine = (push @ reference / (push.norm() * reference.norm())).item()
    assert cosine == pytest.approx(math.cos(math.radians(angle)), abs=1e-5)


def test_rop_starts_from_the_mean_without_a_last_update():
    coalition, knowledge = a_round(rows(8), 2)
    mean = knowledge.updates.deltas.mean(dim=0)
    push = Rop().craft(coalition, knowledge)[0] - mean
    assert abs(float(push @ mean)) < 1e-4 * float(mean.norm()) ** 2


def test_rop_finds_a_right_angle_where_the_mean_lies_along_ones():
    coalition, knowledge = a_round(torch.full((6, 50), 0.2), 2)
    push = Rop(z=1.0).craft(coalition, knowledge)[0] - 0.2
    assert push.norm().item() == pytest.approx(0.2 * math.sqrt(50), rel=1e-5)
    assert abs(push.sum().item()) < 1e-4
