"""Forward and back through a convolution and its max-pooling, for all clients of a group at once.

Pictures are (G, C, H, W, B): the rows of a batch lie side by side, so that every shift, maximum and
sum runs along memory, and a flattened picture is the same memory. Buffers are made once and used in
every step; what a stage returns is good until it is asked again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

import torch
from torch import Tensor

from fedguard.clients.stages import Conv

PATCH_BYTES = 4 << 20
"""Most bytes of patches at a time, but for one row of every picture: what stays in cache."""

_LANES = 16
"""Floats that a core multiplies at once; a product whose rows are no multiple of it is slower."""

_slope = torch.ops.aten.threshold_backward


class Room:
    """Named buffers that are used again in every step."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a float32 buffer: zeros when it is made, then what was left there.

        It is made anew where more clients, or pictures of another shape, come.
        """
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape[0] < shape[0] or buffer.shape[1:] != shape[1:]:
            buffer = self._buffers[name] = torch.zeros(shape)
        return buffer if buffer.shape[0] == shape[0] else buffer[: shape[0]]


class Convolving:
    """One convolution, and what follows it, as products of patches with each client's own weights.

    With patches ``P`` (G, K, N), K = C kh kw values at N = H' W' B places, and weights ``w``
    (G, O, K):

    1. ``z = w P``; of each pooling window the greatest, of equals the first; ``+ b``; ReLU. A
       maximum, a bias and a ReLU may change places, and behind the pooling there is less to do.
    2. On the way back, the slope ``d`` goes to the place of the greatest. The gradient of the
       weights is ``d P'`` (G, O, K), that of the bias the sum of ``d``.
    3. The slope below is ``w' d`` (G, K, N), each value added where its patch's value came from.

    Places that no pooling window holds are not computed. Where all patches are more than
    `PATCH_BYTES`, they are made for some rows of the output at a time, and once more on the way
    back.

    Parameters
    ----------
    stage : Conv
        The convolution.
    room : Room
        Where its buffers lie.
    name : str
        What its buffers are called.
    first : bool
        Whether nothing below it is trained.
    """

    def __init__(self, stage: Conv, room: Room, name: str, *, first: bool) -> None:
        self.stage, self.room, self.name, self.first = stage, room, name, first
        self.x = self.out = torch.empty(0)
        self.kernel = self.sides = (0, 0)
        self.by_window = False
        self._pooled: list[Tensor] = []
        """The products of each band of rows, window by window, on the way from ahead to back."""

    def entrance(self, x: Tensor) -> Tensor:
        """Return an input (G, C, H, W, B) with its margin of zeros, in the order of its shape."""
        down, right = self.stage.padding
        if not (down or right) and x.is_contiguous():
            return x
        group, channels, height, width, batch = x.shape
        wide = (group, channels, height + 2 * down, width + 2 * right, batch)
        whole = self.room.take(f"{self.name} in", wide)
        whole[:, :, down : down + height, right : right + width].copy_(x)
        return whole

    def ahead(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output (G, O, H', W', B) for an input (G, C, H, W, B) with its margin.

        `weight` is (G, O, C / groups, kh, kw), `bias` (G, O).
        """
        self.x, self.kernel = x, (weight.shape[3], weight.shape[4])
        self.sides = (self._side(0), self._side(1))
        outs, values = weight.shape[1], self._values()
        # Patches are copied faster row by row, maxima are taken faster window by window.
        self.by_window = self.first or self.stage.stride[1] > 1 or 2 * values < 5 * outs
        out = self.out = self.room.take(
            f"{self.name} out", (x.shape[0], outs, *self.sides, x.shape[4])
        )
        matrix = weight.flatten(2)
        self._pooled = []
        for top, count in self._bands():
            patches = self._patches(count)
            self._shifts(patches, count).copy_(self._windows(x, top, count))
            z = out[:, :, top : top + count].flatten(2)
            if self.stage.pooled:
                z = self.room.take(f"{self.name} band {top}", (x.shape[0], outs, patches.shape[2]))
            for inputs, outputs in self._parts(outs):
                torch.bmm(matrix[:, outputs], patches[:, inputs], out=z[:, outputs])
            if self.stage.pooled:
                self._pooled.append(z)
                self._greatest(z, count, out[:, :, top : top + count])
        if bias is not None:
            out.add_(bias[:, :, None, None, None])
        return out.relu_() if self.stage.relu else out

    def back(self, d: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of weight and bias, and the slope at the input unless it is first.

        `d` (G, O, H', W', B) is the slope at the output; it is overwritten.
        """
        if self.stage.relu:
            d = _slope.grad_input(d, self.out, 0, grad_input=d)
        if not d.is_contiguous():
            d = self.room.take(f"{self.name} slope", tuple(d.shape)).copy_(d)
        shift = d.flatten(2).sum(dim=2)
        matrix = weight.flatten(2)
        group, outs, values = matrix.shape
        lying = values % _LANES == 0
        shape = (group, outs, values) if lying else (group, values, outs)
        gradient = self.room.take(f"{self.name} gradient", shape).zero_()
        beneath = (0,) if self.first else tuple(self.x.shape)
        below = self.room.take(f"{self.name} below", beneath).zero_()
        bands = list(self._bands())
        for at, (top, count) in enumerate(bands):
            patches = self._patches(count)
            if len(bands) > 1:
                self._shifts(patches, count).copy_(self._windows(self.x, top, count))
            s = d[:, :, top : top + count]
            s = self._spread(s, self._pooled[at], count) if self._pooled else s.flatten(2)
            for inputs, outputs in self._parts(outs):
                if lying:
                    gradient[:, outputs].baddbmm_(s[:, outputs], patches[:, inputs].mT)
                else:
                    gradient[:, :, outputs].baddbmm_(patches[:, inputs], s[:, outputs].mT)
                if not self.first:
                    torch.bmm(matrix[:, outputs].mT, s[:, outputs], out=patches[:, inputs])
            if not self.first:
                self._fold(patches, top, count, below)
        found = gradient if lying else gradient.mT
        down, right = self.stage.padding
        if not self.first:
            below = below[:, :, down : below.shape[2] - down, right : below.shape[3] - right]
        return found.reshape(weight.shape), shift, below

    def _side(self, axis: int) -> int:
        """Return the output's height or width."""
        stage = self.stage
        reach = stage.dilation[axis] * (self.kernel[axis] - 1) + 1
        places = (self.x.shape[2 + axis] - reach) // stage.stride[axis] + 1
        return places // stage.window[axis]

    def _parts(self, outs: int) -> list[tuple[slice, slice]]:
        """Return which rows of the patches make which outputs, group by group."""
        groups = self.stage.groups
        values, outs = self.x.shape[1] * prod(self.kernel) // groups, outs // groups
        return [
            (slice(at * values, (at + 1) * values), slice(at * outs, (at + 1) * outs))
            for at in range(groups)
        ]

    def _bands(self) -> Iterator[tuple[int, int]]:
        """Return which rows of the output are made at a time: the first one and their number."""
        height = self.sides[0]
        rows = min(
            height, max(1, PATCH_BYTES // (4 * self.x.shape[0] * self._values() * self._line()))
        )
        for top in range(0, height, rows):
            yield top, min(rows, height - top)

    def _values(self) -> int:
        return self.x.shape[1] * prod(self.kernel)

    def _line(self) -> int:
        """Return how many places make one row of the output."""
        return prod(self.stage.window) * self.sides[1] * self.x.shape[4]

    def _patches(self, count: int) -> Tensor:
        """Return the buffer of the patches of some rows of the output, (G, K, N)."""
        shape = (self.x.shape[0], self._values(), count * self._line())
        return self.room.take(f"{self.name} patches of {count}", shape)

    def _shifts(self, patches: Tensor, count: int) -> Tensor:
        """Return patches as (G, C, kh, kw, wh, ww, rows, W', B)."""
        channels = self.x.shape[1]
        return self._apart(patches.view(patches.shape[0], channels, *self.kernel, -1), count)

    def _apart(self, values: Tensor, count: int) -> Tensor:
        """Return (..., N) as (..., wh, ww, rows, W', B), however its places are ordered."""
        before, (high, wide) = values.shape[:-1], self.stage.window
        if self.by_window:
            return values.view(*before, high, wide, count, self.sides[1], -1)
        split = values.view(*before, count, high, self.sides[1], wide, -1)
        return split.movedim((-4, -2), (-5, -4))

    def _places(self, z: Tensor, count: int) -> list[Tensor]:
        """Return the values (G, O, rows, W', B) at each place of all windows, row by row."""
        high, wide = self.stage.window
        apart = self._apart(z, count)
        return [apart[:, :, i, j] for i, j in product(range(high), range(wide))]

    def _windows(self, x: Tensor, top: int, count: int) -> Tensor:
        """Return (G, C, H, W, B) as (G, C, kh, kw, wh, ww, rows, W', B), without a copy."""
        stage, (g, c, h, w, b) = self.stage, x.stride()
        (down, right), (high, wide) = stage.stride, stage.window
        shape = (*x.shape[:2], *self.kernel, high, wide, count, self.sides[1], x.shape[4])
        steps = (stage.dilation[0] * h, stage.dilation[1] * w, down * h, right * w)
        strides = (g, c, *steps, down * high * h, right * wide * w, b)
        return x.as_strided(shape, strides, x.storage_offset() + top * down * high * h)

    def _fold(self, patches: Tensor, top: int, count: int, below: Tensor) -> None:
        """Add each value of the patches where it came from."""
        windows, shifts = self._windows(below, top, count), self._shifts(patches, count)
        for i, j in product(range(self.kernel[0]), range(self.kernel[1])):
            windows[:, :, i, j].add_(shifts[:, :, i, j])

    def _greatest(self, z: Tensor, count: int, out: Tensor) -> None:
        """Write each window's maximum into `out`.

        Each place of a window that is greater than all before it leaves in its memory by how much:
        on the way back, the last such place takes the slope.
        """
        first, *rest = self._places(z, count)
        most = first
        for at, place in enumerate(rest):
            last = at == len(rest) - 1
            name = f"{self.name} most {at % 2}"
            more = out if last else self.room.take(name, tuple(first.shape))
            torch.maximum(most, place, out=more)
            place.sub_(most)
            most = more

    def _spread(self, d: Tensor, z: Tensor, count: int) -> Tensor:
        """Return the slope at all places of the windows, in the memory of `_greatest`."""
        first, *rest = self._places(z, count)
        for place in reversed(rest):
            _slope.grad_input(d, place, 0, grad_input=place)
            torch.sub(d, place, out=first if place is rest[0] else d)
        return z
