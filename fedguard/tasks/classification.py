"""Classification: one of C classes for every row; the task of most data sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.metrics.classification import evaluate, predictions
from fedguard.tasks.base import Task


class Classification(Task):
    """Predict a class; x (N, ...) float32, y (N,) int64, outputs (B, C) logits.

    Cross-entropy is descended; accuracy, loss, recall per class and macro-F1 are told.
    """

    name: ClassVar[str] = "classification"
    softmax: ClassVar[bool] = True

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (B,) cross-entropies in nats."""
        return functional.cross_entropy(output, y, reduction="none")

    def evaluate(self, module: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Any]:
        """Return accuracy, loss, ``per_class_recall``, ``macro_f1`` and the confusion matrix."""
        found = evaluate(module, x, y)
        return {
            "accuracy": found.accuracy,
            "loss": found.loss,
            "per_class_recall": list(found.per_class_recall),
            "macro_f1": found.macro_f1,
            "confusion": found.confusion,
        }

    def evaluate_parts(
        self, module: nn.Module, x: Tensor, y: Tensor, sizes: Sequence[int]
    ) -> list[float]:
        """Return each part's accuracy, of all rows in one pass; see `Task.evaluate_parts`."""
        own = type(self).evaluate is not Classification.evaluate
        if own or self.headline != Classification.headline:
            return super().evaluate_parts(module, x, y, sizes)
        if not len(x):
            return [math.nan] * len(sizes)
        hits = (predictions(module, x).argmax(dim=1) == y).double().cpu()
        return [
            float(part.mean()) if len(part) else math.nan for part in torch.split(hits, list(sizes))
        ]

    def strata(self, y: Tensor) -> Tensor:
        """Return the classes themselves."""
        return y

    def output_fault(self, output: Any, count: int, num_classes: int) -> str | None:
        """Return what is wrong with logits that must be (count, C)."""
        if isinstance(output, Tensor) and tuple(output.shape) == (count, num_classes):
            return None
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        return f"it returned {shape}"
