"""Text classification: one of C classes for every sentence."""

from __future__ import annotations

from typing import ClassVar

import torch

from fedguard.tasks.classification import Classification


class TextClassification(Classification):
    """Predict a sentence's class; x (N, L) int64 tokens, y (N,) int64, outputs (B, C) logits.

    Token 0 fills rows up. Losses and figures are those of `Classification`.
    """

    name: ClassVar[str] = "text-classification"
    dtype: ClassVar[torch.dtype] = torch.int64
    softmax: ClassVar[bool] = False
