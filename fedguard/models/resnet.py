"""ResNet-18 with group normalisation."""

from __future__ import annotations

from functools import partial

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from fedguard.errors import ConfigurationError
from fedguard.models.images import check_image

_SMALL = 64


class ResNet18(ResNet):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's ResNet-18 with GroupNorm, and a stem for small images.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. BatchNorm is replaced by
    GroupNorm as in Hsieh et al., "The Non-IID Data Quagmire of Decentralized Machine Learning",
    ICML 2020, because its running statistics do not average over clients with different data.
    Images up to 64 pixels a side get a 3 x 3 stem with stride 1 and no max-pooling, the usual
    form for CIFAR. Weights start at random; none are downloaded.

    The latent layer is ``avgpool``: 512 averaged features.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width) of one image, at least 8 x 8; any number of channels.
    num_classes : int
        Number of classes C.
    groups : int
        Groups of each GroupNorm, a divisor of 64.
    """

    latent_layer = "avgpool"

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, groups: int = 2) -> None:
        channels, height, width = check_image(input_shape, at_least=8)
        if groups < 1 or 64 % groups:
            raise ConfigurationError("groups", groups, "1, 2, 4, 8, 16, 32, 64")
        super().__init__(
            BasicBlock,
            [2, 2, 2, 2],
            num_classes=num_classes,
            norm_layer=partial(nn.GroupNorm, groups),
        )
        small = max(height, width) <= _SMALL
        if small:
            self.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        elif channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
