"""`ConvProgram`: small convolutional networks, their gradient written out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedguard.clients.dense import DenseProgram, Layer
from fedguard.clients.grouping import Group
from fedguard.clients.stages import Conv, stages_of

GROUP = 4
"""Most clients of a group: the linear layers of more bring nothing, and their pictures must stay
in cache from the way forward to the way back."""

_ops = torch.ops.aten


@dataclass(frozen=True)
class _Seen:
    """What a stage's way back needs.

    Its input, what the convolution made of it, the output, and where the maxima were.
    """

    x: Tensor
    made: Tensor
    out: Tensor
    places: Tensor | None


class ConvProgram(DenseProgram):
    """Batched SGD of convolutions, max-pooling, ReLU and linear layers, without autograd.

    This is the way of large convolutions; `PatchedProgram` is that of small ones.

    1. Pictures lie with their channels last, where pooling costs a tenth and convolutions less.
    2. Each client's pictures go through its own convolutions; ReLU follows max-pooling, not the
       other way round (see `Stages`), and the first convolution's input has no gradient.
    3. The linear layers of all clients of the group are one product each, as `DenseProgram` has
       them: their gradients are added to the weights at once and never stored.
    4. Back through the stages, each client's weights are moved as soon as their gradient is there.

    Parameters
    ----------
    trainer : ClientTrainer
        Trains a network of this form; see `stages_of`.
    size : int
        Most clients of a group.
    """

    deep = True
    form = "chain of convolutions, max-pooling, ReLU and linear layers"
    _tape: list[list[_Seen]]
    """The stages of each client on the way forward, in the step that is being taken."""

    def _layers(self) -> tuple[Layer, ...] | None:
        stages = stages_of(self.trainer.model.module)
        if stages is None:
            return None
        self.pictures = stages.pictures
        return stages.layers

    def _inputs(self, group: Group, step: int, active: int) -> Tensor:
        """Return the pictures behind the last convolution or pooling, (active, B, features)."""
        self._tape = []
        flat = []
        for client in range(active):
            x = group.x.index_select(0, group.rows[client, step])
            x = x.contiguous(memory_format=torch.channels_last)
            seen: list[_Seen] = []
            for stage in self.pictures:
                x = self._ahead(stage, x, client, seen)
            self._tape.append(seen)
            flat.append(x.flatten(1))
        return torch.stack(flat)

    def _ahead(self, stage: Conv, x: Tensor, client: int, seen: list[_Seen]) -> Tensor:
        weight = self._of(self.vectors, stage.weight, client)
        bias = None if stage.bias is None else self._of(self.vectors, stage.bias, client)
        numbers = (stage.stride, stage.padding, stage.dilation, stage.groups)
        made = functional.conv2d(x, weight, bias, *numbers)
        out: Tensor = made
        places: Tensor | None = None
        if stage.pooled:
            out, places = _ops.max_pool2d_with_indices.default(made, stage.window, stage.window)
        if stage.relu:
            out.relu_()
        seen.append(_Seen(x, made, out, places))
        return out

    def _backward(self, slope: Tensor, hidden: list[Tensor], active: int) -> Tensor:
        below = super()._backward(slope, hidden, active)
        for client, seen in enumerate(self._tape):
            shape = seen[-1].out.shape
            d = below[client].view(shape).contiguous(memory_format=torch.channels_last)
            for index in reversed(range(len(self.pictures))):
                d = self._back(self.pictures[index], d, seen[index], client, first=index == 0)
        self._tape = []
        return below

    def _back(self, stage: Conv, d: Tensor, seen: _Seen, client: int, *, first: bool) -> Tensor:
        if stage.relu:
            d = _ops.threshold_backward.default(d, seen.out, 0)
        if stage.pooled:
            back, window = _ops.max_pool2d_with_indices_backward.default, stage.window
            d = back(d, seen.made, window, window, (0, 0), (1, 1), False, seen.places)
        weight = self._of(self.vectors, stage.weight, client)
        below: Tensor
        below, change, shift = _ops.convolution_backward.default(
            d,
            seen.x,
            weight,
            None if stage.bias is None else [len(weight)],
            stage.stride,
            stage.padding,
            stage.dilation,
            False,
            (0, 0),
            stage.groups,
            (not first, True, stage.bias is not None),
        )
        self._move_one(stage.weight, change, client)
        if stage.bias is not None:
            self._move_one(stage.bias, shift, client)
        return below

    def _move_one(self, name: str, gradient: Tensor, client: int) -> None:
        """Take one SGD step with one parameter of one client."""
        value = self._of(self.vectors, name, client)
        momenta = self._of(self.momenta, name, client) if self.settings.momentum else value
        self._descend(value, momenta, gradient)

    def _of(self, stack: Tensor, name: str, client: int) -> Tensor:
        """Return one parameter of one client."""
        place = self._places[name]
        start, end = self.layout.offsets[place : place + 2]
        return stack[client, start:end].view(self.layout.shapes[place])
