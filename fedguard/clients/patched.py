"""`PatchedProgram`: small convolutions of many clients as one product of patches and weights."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from fedguard.clients.conv import ConvProgram
from fedguard.clients.dense import DenseProgram
from fedguard.clients.grouping import Group
from fedguard.clients.pictures import Convolving, Room
from fedguard.clients.stages import stages_of
from fedguard.clients.training import ClientTrainer

MOST_GROUPS = 4
"""Most groups of a convolution: each is a product of its own."""

PATCHED_BYTES = 1 << 20
"""Most bytes of one client's patches of any convolution: larger ones are made slower than oneDNN,
which makes none, convolves."""


def fits(trainer: ClientTrainer) -> bool:
    """Return whether patches are the faster way for every convolution of a network.

    A function of the network, the shape of the rows and the configured batch size alone, so that a
    run repeats. The network has a form that `stages_of` takes.
    """
    stages = stages_of(trainer.model.module)
    if stages is None:
        return False
    shapes = dict(zip(trainer.layout.names, trainer.layout.shapes, strict=True))
    sides = [int(side) for side in trainer.federation.dataset.input_shape[1:]]
    for stage in stages.pictures:
        channels, *kernel = shapes[stage.weight][1:]
        channels *= stage.groups
        for axis in (0, 1):
            reach = stage.dilation[axis] * (kernel[axis] - 1) + 1
            sides[axis] = (sides[axis] + 2 * stage.padding[axis] - reach) // stage.stride[axis] + 1
        places = trainer.settings.batch_size * prod(sides)
        if stage.groups > MOST_GROUPS or 4 * channels * prod(kernel) * places > PATCHED_BYTES:
            return False
        sides = [side // window for side, window in zip(sides, stage.window, strict=True)]
    return True


class PatchedProgram(ConvProgram):
    """Batched SGD of convolutions, max-pooling, ReLU and linear layers, without autograd.

    1. Pictures lie with their batch last; see `Convolving`.
    2. Each convolution of all clients of the group is one product of patches and weights; ReLU
       follows max-pooling, not the other way round (see `Stages`), and the first convolution's
       input has no gradient.
    3. The linear layers are one product each, as `DenseProgram` has them: their gradients are
       added to the weights at once and never stored.
    4. Back through the stages, weights are moved as soon as their gradient is there.

    Parameters
    ----------
    trainer : ClientTrainer
        Trains a network of this form; see `stages_of`.
    size : int
        Most clients of a group.
    """

    def __init__(self, trainer: ClientTrainer, size: int) -> None:
        super().__init__(trainer, size)
        room = Room()
        self._stages = [
            Convolving(stage, room, str(at), first=at == 0)
            for at, stage in enumerate(self.pictures)
        ]

    def _inputs(self, group: Group, step: int, active: int) -> Tensor:
        """Return the pictures behind the last stage, (active, B, features)."""
        x = self._pictures(group, step, active)
        for stage in self._stages:
            whole = stage.entrance(x)
            names = stage.stage
            weight = self._view(self.vectors, names.weight, active)
            bias = None if names.bias is None else self._view(self.vectors, names.bias, active)
            x = stage.ahead(whole, weight, bias)
        self._shape = x.shape
        return x.flatten(1, 3).transpose(1, 2)

    def _pictures(self, group: Group, step: int, active: int) -> Tensor:
        """Return the rows that a step takes as pictures (active, C, H, W, B)."""
        chosen = group.rows[:active, step]
        rows = group.x.index_select(0, chosen.flatten())
        rows = rows.view(*chosen.shape, *rows.shape[1:])
        return rows.permute(0, 2, 3, 4, 1)

    def _backward(self, slope: Tensor, hidden: list[Tensor], active: int) -> Tensor:
        below = DenseProgram._backward(self, slope, hidden, active)
        d = below.transpose(1, 2).reshape(self._shape)
        for stage in reversed(self._stages):
            names = stage.stage
            weight = self._view(self.vectors, names.weight, active)
            gradient, shift, d = stage.back(d, weight)
            self._move(names.weight, gradient, active)
            if names.bias is not None:
                self._move(names.bias, shift, active)
        return below

    def _below(self, slope: Tensor, weight: Tensor) -> Tensor:
        """Return the slope (G, B, in) at the input of a layer, its batch last in memory."""
        return torch.bmm(weight.mT, slope.mT).mT
