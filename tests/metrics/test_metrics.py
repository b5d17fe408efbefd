from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedguard.metrics.classification import (
    attack_success_rate,
    confusion_matrix,
    evaluate,
    f1_scores,
    macro_f1,
    predictions,
)
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


def test_f1_of_a_table_by_hand():
    confusion = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    # Class 0: TP 3, FP 2, FN 1; class 1: TP 4, FP 1, FN 2; class 2 is never seen.
    assert f1_scores(confusion).tolist() == pytest.approx([6 / 9, 8 / 11, 0.0])
    assert float(macro_f1(confusion)) == pytest.approx((6 / 9 + 8 / 11) / 2)
    stacked = torch.stack([confusion, torch.eye(3, dtype=torch.int64)])
    assert macro_f1(stacked).tolist() == pytest.approx([(6 / 9 + 8 / 11) / 2, 1.0])


def test_a_class_that_is_only_predicted_costs_precision_of_the_others_alone():
    confusion = torch.tensor([[3, 1], [0, 0]])
    assert f1_scores(confusion).tolist() == pytest.approx([6 / 7, 0.0])
    assert float(macro_f1(confusion)) == pytest.approx(6 / 7)


def test_rows_of_the_confusion_are_the_true_classes():
    found = confusion_matrix(torch.tensor([0, 0, 1, 2]), torch.tensor([1, 1, 1, 0]), 3)
    assert found.tolist() == [[0, 2, 0], [0, 1, 0], [1, 0, 0]]


def test_shares_are_of_the_source_class():
    found = evaluate(Echo(), torch.tensor([[1.0], [2.0], [2.0], [3.0]]), torch.zeros(4).long(), 4)
    assert found.source_to_target(0, 2) == 0.5
    assert found.source_to_target(0, 0) == 0.0
    assert found.source_to_target(1, 0) is None


def test_evaluation_leaves_dropout_out_and_keeps_no_gradient():
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(3, 4))
    x = torch.randn(50, 3)
    model.train()
    first, second = predictions(model, x), predictions(model, x)
    assert torch.equal(first, second)
    assert not first.requires_grad


def test_rejected_clients_that_were_not_asked_count_for_nobody():
    found = detection([1, 2, 3, 4], [1, 9], [1, 2, 9])
    assert (found.true_positive_rate, found.false_positive_rate) == (0.5, 0.0)


def test_macro_f1_and_source_to_target_equal_scikit_learns():
    import numpy as np
    from sklearn.metrics import confusion_matrix as reference
    from sklearn.metrics import f1_score

    from fedguard.attacks.base import Attack, source_to_target
    from fedguard.attacks.label_flip import LabelFlip
    from fedguard.metrics.classification import evaluate

    stream = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=stream)
    y = torch.randint(0, 3, (200,), generator=stream)  # class 3 has no examples
    model = torch.nn.Linear(4, 4)
    found = evaluate(model, x, y, 4)
    with torch.no_grad():
        predicted = model(x).argmax(dim=1)
    np.testing.assert_array_equal(found.confusion, reference(y, predicted, labels=range(4)))
    wanted = f1_score(y, predicted, labels=range(3), average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(wanted)
    flip = LabelFlip(mode="targeted", source_class=1, target_class=2)
    share = float((predicted[y == 1] == 2).double().mean())
    assert source_to_target(flip, found.confusion) == pytest.approx(share)
    assert found.source_to_target(3, 0) is None
    assert source_to_target(LabelFlip(), found.confusion) is None
    assert source_to_target(Attack(), found.confusion) is None
