"""Five convolutions with batch normalisation: the network that repairs by channels are shown on."""

from __future__ import annotations

import itertools
from typing import Literal

from torch import Tensor, nn

from fedguard.errors import ConfigurationError, check_choice
from fedguard.models.images import check_image


class ConvBn(nn.Module):
    """Five 3 x 3 convolutions, each with BatchNorm and ReLU, then one linear layer.

    The second and the fourth convolution halve the image, so that there are three stages of
    feature maps; of each last channel the largest (or average) value over the image is kept, so
    that what the network knows is in its channels and not in where they fire. BatchNorm's running
    statistics travel with the parameters and are averaged, which suits clients with similar data;
    for others see `cnn`.

    The latent layer is ``pool``: one value of each of the last channels.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width) of one image, at least 8 x 8.
    num_classes : int
        Number of classes C.
    channels : tuple of int
        Output channels of the five convolutions, each at least 1; 160 in all by default.
    pool : {"max", "average"}
        What is kept of a channel; the maximum learns faster from few rows.
    """

    latent_layer = "pool"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        channels: tuple[int, int, int, int, int] = (16, 16, 32, 32, 64),
        pool: Literal["max", "average"] = "max",
    ) -> None:
        super().__init__()
        planes, _, _ = check_image(input_shape, at_least=8)
        if min(channels) < 1:
            raise ConfigurationError("channels", channels, "five numbers >= 1")
        check_choice("pool", pool, ("max", "average"))
        strides = (1, 2, 1, 2, 1)
        layers = [
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            )
            for (before, after), stride in zip(
                itertools.pairwise((planes, *channels)), strides, strict=True
            )
        ]
        self.features = nn.Sequential(*layers)
        pooling = nn.AdaptiveMaxPool2d(1) if pool == "max" else nn.AdaptiveAvgPool2d(1)
        self.pool = nn.Sequential(pooling, nn.Flatten())
        self.output = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C) logits of (B, channels, height, width) normalised images."""
        logits: Tensor = self.output(self.pool(self.features(x)))
        return logits
