"""Accuracy, loss, recall per class and backdoor success of a classifier."""

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
    """

    accuracy: float
    loss: float
    per_class_recall: tuple[float, ...]


@torch.no_grad()
def predictions(module: nn.Module, x: Tensor) -> Tensor:
    """Return the (N, C) logits of a model in evaluation mode, in batches."""
    module.eval()
    return torch.cat([module(part) for part in torch.split(x, _BATCH)])


def evaluate(module: nn.Module, x: Tensor, y: Tensor, num_classes: int) -> Evaluation:
    """Return accuracy, loss and recall per class of (N, ...) normalised examples."""
    logits = predictions(module, x)
    correct = (logits.argmax(dim=1) == y).to(torch.float64)
    totals = y.bincount(minlength=num_classes)
    hits = y.bincount(weights=correct, minlength=num_classes)
    return Evaluation(
        accuracy=float(correct.mean()),
        loss=float(functional.cross_entropy(logits, y)),
        per_class_recall=tuple((hits / totals).tolist()),
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
