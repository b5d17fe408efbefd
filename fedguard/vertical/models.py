"""Bottom models of the parties and the top model of the label holder."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.randomness import SERVER, stream_seed

ARCHITECTURES = ("modern", "paper")

Layers = list[tuple[Tensor, Tensor]]
"""Weights and biases of K networks' layers, stacked along the first dimension."""


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm and an identity (or zero-padded) shortcut."""

    def __init__(self, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(wide_in, wide_out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(wide_out)
        self.second = nn.Conv2d(wide_out, wide_out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(wide_out)
        self.stride, self.extra = stride, wide_out - wide_in

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, wide_out, H / stride, W / stride) activations."""
        y = functional.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.extra))
        return functional.relu(y + shortcut)


def _resnet20(channels: int, embedding: int) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    ]
    wide = 16
    for stage, width in enumerate((16, 32, 64)):
        for place in range(3):
            layers.append(BasicBlock(wide, width, 2 if stage and not place else 1))
            wide = width
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, embedding)]
    return nn.Sequential(*layers, *tail)


def _small_cnn(shape: tuple[int, ...], embedding: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, 2, 1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.GroupNorm(8, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((4, 1)),
        nn.Flatten(),
        nn.Linear(128, embedding),
    )


def make_bottom(
    shape: tuple[int, ...], embedding: int, arch: str, seed: int, party: int
) -> nn.Module:
    """Return a party's bottom model, its weights drawn from the seed and the party alone.

    Parameters
    ----------
    shape : tuple of int
        Shape of the party's part of one example.
    embedding : int
        Width E of the embedding.
    arch : str
        ``paper``: two linear layers without activation for grey images and tables, ResNet-20 for
        colour images. ``modern``: a ReLU between the two layers, a small CNN for colour images.
    seed : int
        Seed of the run.
    party : int
        The party.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, 0, party, "bottom"))
        if len(shape) == 3 and shape[0] >= 3:
            model = (
                _resnet20(shape[0], embedding) if arch == "paper" else _small_cnn(shape, embedding)
            )
        else:
            hidden = 128 if arch == "paper" else 64
            middle = [] if arch == "paper" else [nn.ReLU()]
            model = nn.Sequential(
                nn.Flatten(),
                nn.Linear(math.prod(shape), hidden),
                *middle,
                nn.Linear(hidden, embedding),
            )
    return model.train()


class TopModel(nn.Module):
    """The label holder's network: a first linear layer on all blocks, then `rest`.

    Parameters
    ----------
    parties : int
        Number of blocks P.
    embedding : int
        Width E of a block.
    num_classes : int
        Number of classes C.
    widths : tuple of int
        Widths of the hidden layers, at least one.
    activation : bool
        Whether a ReLU follows each hidden layer.
    """

    def __init__(
        self,
        parties: int,
        embedding: int,
        num_classes: int,
        widths: tuple[int, ...],
        activation: bool,
    ) -> None:
        super().__init__()
        self.parties, self.embedding = parties, embedding
        self.activation = activation
        self.first = nn.Linear(parties * embedding, widths[0])
        sizes = [*widths, num_classes]
        self.rest = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, blocks: Tensor) -> Tensor:
        """Return (B, C) logits of (B, P, E) or (B, P * E) blocks."""
        hidden: Tensor = self.first(blocks.flatten(1))
        for layer in self.rest:
            hidden = layer(functional.relu(hidden) if self.activation else hidden)
        return hidden

    def layers(self) -> Layers:
        """Return (1, out, in) weights and (1, 1, out) biases above the first layer, detached."""
        found = []
        for layer in self.rest:
            assert isinstance(layer, nn.Linear)
            found.append((layer.weight.detach()[None], layer.bias.detach()[None, None]))
        return found

    def set_gradients(self, flat: Tensor, slope: Tensor, above: Layers) -> None:
        """Set the weights' gradients.

        Parameters
        ----------
        flat : Tensor
            (B, P * E) input.
        slope : Tensor
            (B, H) gradient of the loss with respect to the first layer's pre-activation.
        above : list of (Tensor, Tensor)
            Gradients of `layers`.
        """
        self.first.weight.grad, self.first.bias.grad = slope.T @ flat, slope.sum(dim=0)
        for layer, (weight, bias) in zip(self.rest, above, strict=True):
            assert isinstance(layer, nn.Linear)
            layer.weight.grad, layer.bias.grad = weight[0], bias[0, 0]


@torch.no_grad()
def losses_and_gradients(
    hidden: Tensor, layers: Layers, y: Tensor, *, activation: bool, trained: int
) -> tuple[Tensor, Tensor, Layers]:
    """Return what K networks lose on one batch, and the gradients of each one's own loss.

    What autograd would give, written out: small networks spend more time on the graph than on
    numbers.

    Parameters
    ----------
    hidden : Tensor
        (K, B, H) pre-activation of each network's first layer; overwritten.
    layers : list of (Tensor, Tensor)
        (K, out, in) weights and (K, 1, out) biases of the layers above it, one or more.
    y : Tensor
        (B,) labels.
    activation : bool
        Whether a ReLU comes before each of `layers`.
    trained : int
        How many networks, the first ones, need gradients.

    Returns
    -------
    losses : Tensor
        (K,) mean cross-entropies.
    slope : Tensor
        (trained, B, H) gradient with respect to `hidden`.
    gradients : list of (Tensor, Tensor)
        Of the first `trained` weights and biases.
    """
    inputs: list[Tensor] = []
    for weight, bias in layers[:-1]:
        inputs.append(hidden.relu_() if activation else hidden)
        hidden = torch.baddbmm(bias, inputs[-1], weight.transpose(1, 2))
    inputs.append(hidden.relu_() if activation else hidden)
    weight, bias = layers[-1]
    # classes before rows, (K, C, B): the softmax then runs along memory, 20 times as fast
    logits = torch.baddbmm(bias.transpose(1, 2), weight, inputs[-1].transpose(1, 2))
    logs = functional.log_softmax(logits, dim=1)
    right = y.expand(len(logs), 1, -1)
    losses = -logs.gather(1, right).mean(dim=(1, 2))
    slope = logs[:trained].exp_().scatter_(1, right[:trained], -1.0, reduce="add")
    slope = slope.div_(len(y)).transpose(1, 2)
    gradients: Layers = []
    for (weight, _), inner in zip(reversed(layers), reversed(inputs), strict=True):
        kept = inner[:trained]
        across = torch.bmm(slope.transpose(1, 2), kept)
        gradients.insert(0, (across, slope.sum(dim=1, keepdim=True)))
        slope = torch.bmm(slope, weight[:trained])
        if activation:
            slope *= kept.sign_()  # of a ReLU's output: 0 or 1
    return losses, slope, gradients


def make_top(
    parties: int, embedding: int, num_classes: int, arch: str, colour: bool, seed: int
) -> TopModel:
    """Return the top model of an architecture, its weights drawn from the seed alone.

    The paper's colour-image top also has BatchNorm and dropout, which are left out here.
    """
    widths = (512, 256) if colour and arch == "paper" else (64,)
    activation = arch != "paper" or colour
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, 0, SERVER, "top"))
        return TopModel(parties, embedding, num_classes, widths, activation)
