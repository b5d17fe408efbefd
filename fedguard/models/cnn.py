"""A small convolutional network, made for many clients on few cores."""

from __future__ import annotations

from torch import Tensor, nn

from fedguard.errors import ConfigurationError, check_number
from fedguard.models.images import check_image

_LARGE = 16
_GRID = 6


class Cnn(nn.Module):
    """Two convolutions, one hidden layer, one output layer, ReLU between them.

    A 5 x 5 convolution with stride 2, 2 x 2 max-pooling, a 3 x 3 convolution. The stride makes a
    training step cost a quarter of the usual convolve-and-pool network's, at the same accuracy on
    MNIST; images below 16 pixels do without it. Feature maps beyond 6 x 6 are averaged down to
    6 x 6, so that large images do not make a large hidden layer. There is no BatchNorm: its
    running statistics do not average over clients with different data.

    The latent layer is ``hidden``: the activation of the hidden layer.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width) of one image, at least 8 x 8.
    num_classes : int
        Number of classes C.
    channels : tuple of int
        Output channels of the two convolutions, each >= 1.
    hidden : int
        Width of the hidden layer, >= 1.
    """

    latent_layer = "hidden"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        channels: tuple[int, int] = (16, 32),
        hidden: int = 64,
    ) -> None:
        super().__init__()
        planes, height, width = check_image(input_shape, at_least=8)
        check_number("hidden", hidden, at_least=1)
        if min(channels) < 1:
            raise ConfigurationError("channels", channels, "two numbers >= 1")
        stride, padding = (2, 0) if min(height, width) >= _LARGE else (1, 2)
        rows, columns = (_side(side, stride, padding) for side in (height, width))
        grid = (min(rows, _GRID), min(columns, _GRID))
        self.features = nn.Sequential(
            nn.Conv2d(planes, channels[0], 5, stride, padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels[0], channels[1], 3),
            nn.ReLU(),
            nn.Identity() if grid == (rows, columns) else nn.AdaptiveAvgPool2d(grid),
        )
        flat = channels[1] * grid[0] * grid[1]
        self.hidden = nn.Sequential(nn.Linear(flat, hidden), nn.ReLU())
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C) logits of (B, channels, height, width) normalised images."""
        logits: Tensor = self.output(self.hidden(self.features(x).flatten(1)))
        return logits


def _side(side: int, stride: int, padding: int) -> int:
    """Return the side of the feature map after both convolutions."""
    after_first = (side + 2 * padding - 5) // stride + 1
    return after_first // 2 - 2
