from __future__ import annotations

import math

import pytest
import torch

from fedguard.attacks.numerical import Numerical
from fedguard.errors import ConfigurationError
from tests.attacks.worlds import a_round, rows


@pytest.mark.parametrize(
    ("mode", "value"),
    [("inf", math.inf), ("negative-inf", -math.inf), ("huge", 1e30), ("denormal", 1e-40)],
)
def test_every_coordinate_is_the_value(mode, value):
    coalition, knowledge = a_round(rows(5), 2)
    crafted = Numerical(mode=mode).craft(coalition, knowledge)
    assert torch.equal(crafted, torch.full_like(crafted, value))
    assert crafted.count_nonzero() == crafted.numel()


def test_nan_is_everywhere():
    assert torch.isnan(Numerical().craft(*a_round(rows(5), 2))).all()


@pytest.mark.parametrize("mode", ["one-nan", "one-huge"])
def test_one_coordinate_is_bad_and_the_rest_honest(mode):
    coalition, knowledge = a_round(rows(5), 2)
    crafted = Numerical(mode=mode).craft(coalition, knowledge)
    bad = torch.isnan(crafted) | (crafted > 1e29)
    assert bad.sum(dim=1).tolist() == [1, 1]
    assert torch.equal(crafted[~bad], coalition.deltas[~bad])


def test_it_says_that_it_is_not_finite_and_knows_its_modes():
    assert not Numerical.finite
    with pytest.raises(ConfigurationError, match="did you mean 'nan'"):
        Numerical(mode="nann")
