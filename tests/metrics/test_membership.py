from __future__ import annotations

import pytest
import torch
from torch import nn

from fedguard.metrics.membership import membership, tell_apart
from fedguard.randomness import generator


def test_known_cases():
    far = tell_apart(torch.full((50,), 2.0), torch.zeros(50))
    assert far is not None
    assert far.auc == 1.0
    assert far.tpr_at_low_fpr == 1.0
    backwards = tell_apart(torch.zeros(50), torch.ones(50))
    assert backwards is not None
    assert backwards.auc == 0.0
    # A pair of four is out of order.
    mixed = tell_apart(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0]))
    assert mixed is not None
    assert mixed.auc == pytest.approx(0.75)
    assert mixed.tpr_at_low_fpr == pytest.approx(0.5)


def test_one_distribution_is_a_guess():
    rng = generator(0, 0, 0, "scores")
    found = tell_apart(torch.randn(4000, generator=rng), torch.randn(4000, generator=rng))
    assert found is not None
    assert found.auc == pytest.approx(0.5, abs=0.02)
    assert found.tpr_at_low_fpr < 0.03


def test_gaussians_one_apart_have_the_known_area():
    rng = generator(1, 0, 0, "scores")
    found = tell_apart(1.0 + torch.randn(20_000, generator=rng), torch.randn(20_000, generator=rng))
    assert found is not None
    # Phi(1 / sqrt 2)
    assert found.auc == pytest.approx(0.7602, abs=0.01)


def test_without_one_side_there_is_nothing_to_tell():
    assert tell_apart(torch.ones(3), torch.empty(0)) is None


def test_references_take_difficulty_out():
    """Members are hard and known by heart, others easy: their loss alone tells the wrong way."""

    class Table(nn.Module):
        def __init__(self, confidence):
            super().__init__()
            self.confidence = confidence

        def forward(self, x):
            right = torch.where(x[:, 0] > 0, self.confidence[0], self.confidence[1])
            return torch.stack([right, torch.zeros_like(right)], dim=1)

    members = (torch.ones(20, 1), torch.zeros(20, dtype=torch.long))
    others = (-torch.ones(20, 1), torch.zeros(20, dtype=torch.long))
    target = Table(torch.tensor([1.0, 3.0]))
    reference = Table(torch.tensor([-3.0, 3.0]))
    plain = membership(target, [], members, others)
    calibrated = membership(target, [reference], members, others)
    assert plain is not None
    assert plain.auc == 0.0
    assert calibrated is not None
    assert calibrated.auc == 1.0
