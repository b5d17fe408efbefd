from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedguard.metrics.classification import attack_success_rate, evaluate
from fedguard.metrics.detection import detection


class Echo(nn.Module):
    """Predicts the class that the example itself names."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10.0 * nn.functional.one_hot(x[:, 0].long(), 4).float()


def test_evaluation_counts_by_class_over_batches():
    x = torch.tensor([0.0, 1.0, 1.0, 2.0] * 600)[:, None]
    y = torch.tensor([0, 1, 0, 2] * 600)
    found = evaluate(Echo(), x, y, 4)
    assert found.accuracy == pytest.approx(0.75)
    assert found.per_class_recall[:3] == pytest.approx((0.5, 1.0, 1.0))
    assert math.isnan(found.per_class_recall[3])
    expected = nn.functional.cross_entropy(Echo()(x), y)
    assert found.loss == pytest.approx(float(expected))


def test_attack_success_leaves_the_target_class_out():
    x = torch.tensor([2.0, 2.0, 1.0, 0.0])[:, None]
    assert attack_success_rate(Echo(), x, torch.tensor([0, 1, 1, 3]), 2) == 0.5
    with pytest.raises(ValueError, match="target class"):
        attack_success_rate(Echo(), x, torch.tensor([0, 2, 1, 3]), 2)


@pytest.mark.parametrize(
    ("asked", "rejected", "malicious", "tpr", "fpr"),
    [
        (range(10), [0, 1, 5], [0, 1], 1.0, 1 / 8),
        (range(10), [], [0, 1], 0.0, 0.0),
        ([2, 3], [3], [0, 1], None, 0.5),
        ([0, 1], [0], [0, 1], 0.5, None),
        ([], [], [0], None, None),
    ],
)
def test_detection_among_those_asked(asked, rejected, malicious, tpr, fpr):
    found = detection(asked, rejected, malicious)
    assert (found.true_positive_rate, found.false_positive_rate) == (tpr, fpr)
