from __future__ import annotations

import pytest
import torch
from scipy.stats import norm

from fedguard.attacks.alie import Alie, alie_z
from tests.attacks.worlds import a_round, rows


@pytest.mark.parametrize("z", [0.0, 0.7, 1.5])
def test_equals_mean_minus_z_sigma(z):
    coalition, knowledge = a_round(rows(9), 3)
    seen = knowledge.updates.deltas.double()
    expected = seen.mean(dim=0) - z * seen.std(dim=0, unbiased=False)
    crafted = Alie(z=z).craft(coalition, knowledge)
    assert torch.allclose(crafted.double(), expected.expand(3, -1), atol=1e-6)


@pytest.mark.parametrize(("n", "f"), [(50, 10), (50, 12), (50, 24), (20, 8)])
def test_z_follows_the_papers_formula(n, f):
    supporters = n // 2 + 1 - f
    assert alie_z(n, f) == pytest.approx(norm.ppf((n - f - supporters) / (n - f)))


def test_z_is_finite_and_not_negative_for_any_cohort():
    values = [alie_z(n, f) for n in range(1, 40) for f in range(n + 1)]
    assert all(0.0 <= value < 10.0 for value in values)


def test_formula_is_the_default():
    coalition, knowledge = a_round(rows(20), 8)
    given = Alie(z=alie_z(20, 8)).craft(coalition, knowledge)
    assert torch.equal(Alie().craft(coalition, knowledge), given)


def test_one_visible_update_gives_its_size_as_the_spread():
    coalition, knowledge = a_round(rows(5), 1, scope="partial")
    own = coalition.deltas
    crafted = Alie(z=0.5).craft(coalition, knowledge)
    assert torch.allclose(crafted, own - 0.5 * own.abs())
