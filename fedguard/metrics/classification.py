"""Accuracy, loss, recall, F1, and the success of backdoors and label flips."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_BATCH = 1000


@dataclass(frozen=True)
class Evaluation:
    """How a model does on labelled examples.

    Attributes
    ----------
    accuracy : float
        Share of examples classified correctly, 0 to 1.
    loss : float
        Mean cross-entropy in nats; infinite or NaN where the model diverged.
    per_class_recall : tuple of float
        Share of each class's examples classified correctly; NaN for a class without examples.
    macro_f1 : float
        Mean F1 score over the classes that have examples, 0 to 1.
    confusion : Tensor
        (C, C) int64 counts of examples by true class (row) and predicted class.
    """

    accuracy: float
    loss: float
    per_class_recall: tuple[float, ...]
    macro_f1: float
    confusion: Tensor

    def source_to_target(self, source: int, target: int) -> float | None:
        """Return the share of the source class's examples taken for the target class.

        The success of a targeted label flip; None where the source class has no examples.
        """
        row = self.confusion[source]
        total = int(row.sum())
        return int(row[target]) / total if total else None


def confusion_matrix(y: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Return the (C, C) int64 counts of examples by true class (row) and predicted class."""
    pairs = y * num_classes + predicted
    return pairs.bincount(minlength=num_classes * num_classes).view(num_classes, num_classes)


def f1_scores(confusion: Tensor) -> Tensor:
    """Return ``2 TP / (2 TP + FP + FN)`` of each class; 0 for a class never seen nor predicted.

    Parameters
    ----------
    confusion : Tensor
        (..., C, C) counts by true and predicted class.
    """
    counts = confusion.to(torch.float64)
    hits = counts.diagonal(dim1=-2, dim2=-1)
    return 2.0 * hits / (counts.sum(dim=-1) + counts.sum(dim=-2)).clamp(min=1.0)


def macro_f1(confusion: Tensor) -> Tensor:
    """Return the mean F1 score over the classes that have examples, of (..., C, C) counts."""
    present = confusion.sum(dim=-1) > 0
    scores = torch.where(present, f1_scores(confusion), 0.0)
    return scores.sum(dim=-1) / present.sum(dim=-1).clamp(min=1)


@torch.no_grad()
def predictions(module: nn.Module, x: Tensor) -> Tensor:
    """Return the (N, C) logits of a model in evaluation mode, in batches."""
    module.eval()
    return torch.cat([module(part) for part in torch.split(x, _BATCH)])


def evaluate(module: nn.Module, x: Tensor, y: Tensor, num_classes: int | None = None) -> Evaluation:
    """Return accuracy, loss and recall per class of (N, ...) normalised examples.

    The number of classes is that of the logits where it is left out.
    """
    logits = predictions(module, x)
    num_classes = logits.shape[1] if num_classes is None else num_classes
    confusion = confusion_matrix(y, logits.argmax(dim=1), num_classes).cpu()
    hits = confusion.diagonal().to(torch.float64)
    return Evaluation(
        accuracy=float(hits.sum() / len(y)),
        loss=float(functional.cross_entropy(logits, y)),
        per_class_recall=tuple((hits / confusion.sum(dim=1)).tolist()),
        macro_f1=float(macro_f1(confusion)),
        confusion=confusion,
    )


def attack_success_rate(
    module: nn.Module, triggered: Tensor, y: Tensor, target_class: int
) -> float:
    """Return the share of triggered examples classified as the backdoor's target class.

    Examples that belong to the target class anyway must not be among them.
    """
    if bool((y == target_class).any()):
        raise ValueError("examples of the target class say nothing about a backdoor")
    return float((predictions(module, triggered).argmax(dim=1) == target_class).double().mean())
