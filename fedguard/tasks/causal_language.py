"""Causal language: the words of an answer, each from the prompt and the words before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.tasks.next_word import BATCH, NextWord, figures


class CausalLanguage(NextWord):
    """Predict the words of an answer; x and y (N, L) int64, outputs (B, L, V) logits.

    Labels below 0 mark prompts and what fills a row up: they are neither learnt nor counted. A
    row's loss is the mean cross-entropy of its answer's words, 0 where it has none. Perplexity
    over all words of the answers is the headline.
    """

    name: ClassVar[str] = "causal-language"

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (B,) mean cross-entropies of the answers' words, in nats."""
        learnt = y >= 0
        words = functional.cross_entropy(
            output.flatten(0, 1), y.clamp(min=0).flatten(), reduction="none"
        )
        words = torch.where(learnt, words.view(y.shape), 0.0)
        return words.sum(dim=1) / learnt.sum(dim=1).clamp(min=1)

    @torch.no_grad()
    def evaluate(self, module: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Any]:
        """Return perplexity, loss in nats per word of an answer, and accuracy."""
        module.eval()
        total, hits, count = 0.0, 0, 0
        for part, wanted in zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True):
            learnt = wanted >= 0
            output, words = module(part)[learnt], wanted[learnt]
            total += float(functional.cross_entropy(output, words, reduction="sum").double())
            hits += int((output.argmax(dim=1) == words).sum())
            count += len(words)
        return figures(total, hits, count)
