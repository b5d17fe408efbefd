"""Multinomial logistic regression."""

from __future__ import annotations

import math

from torch import Tensor, nn


class Logistic(nn.Module):
    """One linear layer on the flattened input: ``logits = W x + b``.

    There is no hidden layer, so the latent layer is the output layer itself and the latent
    representation is the logits.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one example.
    num_classes : int
        Number of classes C.
    """

    latent_layer = "output"

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(math.prod(input_shape), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C) logits of (B, ...) normalised inputs."""
        logits: Tensor = self.output(x.flatten(1))
        return logits
