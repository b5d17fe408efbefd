"""Multilayer perceptron."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from fedguard.errors import ConfigurationError


class Mlp(nn.Module):
    """Fully connected layers with ReLU on the flattened input.

    The latent layer is ``hidden``: the activation of the last hidden layer.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one example.
    num_classes : int
        Number of classes C.
    hidden : tuple of int
        Widths of the hidden layers, at least one, each >= 1.
    layer_norm : bool
        Whether every hidden layer is normalised (LayerNorm) before its ReLU.
    """

    latent_layer = "hidden"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        hidden: tuple[int, ...] = (128,),
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ConfigurationError("hidden", hidden, "one or more widths >= 1")
        widths = [math.prod(input_shape), *hidden]
        layers: list[nn.Module] = []
        for wide_in, wide_out in pairwise(widths):
            layers.append(nn.Linear(wide_in, wide_out))
            if layer_norm:
                layers.append(nn.LayerNorm(wide_out))
            layers.append(nn.ReLU())
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(hidden[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C) logits of (B, ...) normalised inputs."""
        logits: Tensor = self.output(self.hidden(x.flatten(1)))
        return logits
