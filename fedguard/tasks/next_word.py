"""Next-word prediction: every word of a text from those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.tasks.base import Task, Unit

BATCH = 256
_MOST = 1e4
"""Nats at which a diverged model's loss is cut, so that a perplexity stays a number."""


class NextWord(Task):
    """Predict the next word at every place; x and y (N, L) int64, outputs (B, L, V) logits.

    A row's loss is the mean cross-entropy of its L words. Perplexity, ``exp`` of the mean over all
    words of the test set, is the headline; accuracy is the share of words guessed first.
    """

    name: ClassVar[str] = "next-word"
    headline: ClassVar[str] = "perplexity"
    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[Unit] = "plain"
    dtype: ClassVar[torch.dtype] = torch.int64

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (B,) mean cross-entropies of the rows' words, in nats."""
        words = functional.cross_entropy(output.flatten(0, 1), y.flatten(), reduction="none")
        return words.view(y.shape).mean(dim=1)

    @torch.no_grad()
    def evaluate(self, module: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Any]:
        """Return perplexity, loss in nats per word, and accuracy."""
        module.eval()
        total, hits = 0.0, 0
        for part, wanted in zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True):
            output = module(part).flatten(0, 1)
            words = functional.cross_entropy(output, wanted.flatten(), reduction="none")
            total += float(words.double().sum())
            hits += int((output.argmax(dim=1) == wanted.flatten()).sum())
        return figures(total, hits, y.numel())

    def output_fault(self, output: Any, count: int, num_classes: int) -> str | None:
        """Return what is wrong with logits that must be (count, L, V)."""
        good = isinstance(output, Tensor) and output.ndim == 3 and len(output) == count
        if good and output.shape[2] == num_classes:
            return None
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        return f"it returned {shape}, expected (rows, words, {num_classes})"


def figures(total: float, hits: int, count: int) -> dict[str, float]:
    """Return perplexity, loss per word and accuracy of `count` words.

    Parameters
    ----------
    total : float
        Sum of their cross-entropies, in nats.
    hits : int
        How many of them were guessed first.
    count : int
        How many words there are.
    """
    loss = total / max(count, 1)
    told = min(loss, _MOST) if math.isfinite(loss) else _MOST
    perplexity = math.exp(min(told, math.log(1e300)))
    return {"perplexity": perplexity, "loss": loss, "accuracy": hits / max(count, 1)}
