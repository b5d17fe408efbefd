"""`ConvProgram`: small convolutional networks, their gradient written out by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from fedguard.clients.dense import DenseProgram, Layer
from fedguard.clients.grouping import Group
from fedguard.clients.pictures import Convolving, Room
from fedguard.clients.stages import stages_of

GROUP = 8
"""Most clients of a group: more bring nothing, and their pictures must stay in cache from the way
forward to the way back."""


class ConvProgram(DenseProgram):
    """Batched SGD of convolutions, max-pooling, ReLU and linear layers, without autograd.

    1. Pictures lie with their batch last; see `pictures`.
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

    deep = True
    form = "chain of convolutions, max-pooling, ReLU and linear layers"

    def _layers(self) -> tuple[Layer, ...] | None:
        stages = stages_of(self.trainer.model.module)
        if stages is None:
            return None
        self.room = Room()
        self.pictures = [
            Convolving(stage, self.room, str(at), first=at == 0)
            for at, stage in enumerate(stages.pictures)
        ]
        return stages.layers

    def _inputs(self, group: Group, step: int, active: int) -> Tensor:
        """Return the pictures behind the last stage, (active, B, features)."""
        x = self._pictures(group, step, active)
        for stage in self.pictures:
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
        rows = group.x.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)
        return rows.permute(0, 2, 3, 4, 1)

    def _backward(self, slope: Tensor, hidden: list[Tensor], active: int) -> Tensor:
        below = super()._backward(slope, hidden, active)
        d = below.transpose(1, 2).reshape(self._shape)
        for stage in reversed(self.pictures):
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
