"""Classification: one of C classes for every row; the task of most data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from fedguard.metrics.classification import evaluate
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

    def strata(self, y: Tensor) -> Tensor:
        """Return the classes themselves."""
        return y

    def output_fault(self, output: Any, count: int, num_classes: int) -> str | None:
        """Return what is wrong with logits that must be (count, C)."""
        if isinstance(output, Tensor) and tuple(output.shape) == (count, num_classes):
            return None
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        return f"it returned {shape}"
