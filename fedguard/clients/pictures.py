"""Forward and back through convolutions and max-pooling, for all clients of a group at once.

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

from fedguard.clients.stages import Conv, Pool

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
        if buffer is None or len(buffer) < shape[0] or buffer.shape[1:] != shape[1:]:
            buffer = self._buffers[name] = torch.zeros(shape)
        return buffer[: shape[0]]


class Convolving:
    """One convolution as products of patches with each client's own weights.

    With patches ``P`` (G, K, N), K = C kh kw values at N = H' W' B places, and weights ``w``
    (G, O, K):

    1. ``z = w P + b``;
    2. the gradient of the weights is ``d P'`` (G, O, K), that of the bias the sum of ``d``;
    3. the slope below is ``w' d`` (G, K, N), each value added where its patch's value came from.

    Where all patches are more than `PATCH_BYTES`, they are made for some rows of the picture at a
    time, and once more on the way back.

    Parameters
    ----------
    stage : Conv
        The convolution.
    room : Room
        Where its buffers lie.
    name : str
        What its buffers are called.
    """

    def __init__(self, stage: Conv, room: Room, name: str) -> None:
        self.stage, self.room, self.name = stage, room, name
        self.x = self.out = torch.empty(0)
        self.kernel = self.sides = (0, 0)

    def entrance(self, shape: tuple[int, int, int, int, int]) -> tuple[Tensor, Tensor]:
        """Return a buffer for the input with its margin of zeros, and the input's part of it."""
        down, right = self.stage.padding
        height, width = shape[2:4]
        wide = (*shape[:2], height + 2 * down, width + 2 * right, shape[4])
        whole = self.room.take(f"{self.name} in", wide)
        return whole, whole[:, :, down : down + height, right : right + width]

    def ahead(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output (G, O, H', W', B) for an input (G, C, H, W, B) with its margin.

        `weight` is (G, O, C / groups, kh, kw), `bias` (G, O).
        """
        self.x, self.kernel = x, (weight.shape[3], weight.shape[4])
        self.sides = (self._side(0), self._side(1))
        shape = (len(x), weight.shape[1], *self.sides, x.shape[4])
        out = self.room.take(f"{self.name} out", shape)
        flat, matrix = out.flatten(2), weight.flatten(2)
        for places, patches in self._patches(anew=True):
            for inputs, outputs in self._parts(shape[1]):
                z, w, p = flat[:, outputs, places], matrix[:, outputs], patches[:, inputs]
                if bias is None:
                    torch.bmm(w, p, out=z)
                else:
                    torch.baddbmm(bias[:, outputs, None], w, p, out=z)
        self.out = out.relu_() if self.stage.relu else out
        return out

    def back(
        self, d: Tensor, weight: Tensor, *, first: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the gradients of weight and bias, and the slope at the input unless it is first.

        `d` (G, O, H', W', B) is the slope at the output; it is overwritten.
        """
        if self.stage.relu:
            d = _slope.grad_input(d, self.out, 0, grad_input=d)
        if not d.is_contiguous():
            d = self.room.take(f"{self.name} slope", tuple(d.shape)).copy_(d)
        flat, matrix = d.flatten(2), weight.flatten(2)
        group, outs, values = matrix.shape
        standing = values % _LANES > 0  # then the rows of the product are the outputs
        gradient = self.room.take(
            f"{self.name} gradient", (group, values, outs) if standing else (group, outs, values)
        )
        upright = gradient.transpose(1, 2) if standing else gradient
        below = None if first else self.room.take(f"{self.name} below", tuple(self.x.shape)).zero_()
        for places, patches in self._patches(anew=False):
            fresh = 0.0 if places.start == 0 else 1.0
            for inputs, outputs in self._parts(outs):
                s, p = flat[:, outputs, places], patches[:, inputs]
                if standing:
                    gradient[:, :, outputs].baddbmm_(p, s.transpose(1, 2), beta=fresh)
                else:
                    gradient[:, outputs].baddbmm_(s, p.transpose(1, 2), beta=fresh)
                if below is not None:
                    torch.bmm(matrix[:, outputs].transpose(1, 2), s, out=p)
            if below is not None:
                self._fold(patches, places, below)
        if below is not None:
            down, right = self.stage.padding
            below = below[:, :, down : below.shape[2] - down, right : below.shape[3] - right]
        return upright.unflatten(2, weight.shape[2:]), flat.sum(dim=2), below

    def _side(self, axis: int) -> int:
        stage = self.stage
        reach = stage.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (self.x.shape[2 + axis] - reach) // stage.stride[axis] + 1

    def _parts(self, outs: int) -> Iterator[tuple[slice, slice]]:
        """Return which rows of the patches make which outputs, group by group."""
        values = self.x.shape[1] * prod(self.kernel) // self.stage.groups
        outs //= self.stage.groups
        for at in range(self.stage.groups):
            yield slice(at * values, (at + 1) * values), slice(at * outs, (at + 1) * outs)

    def _patches(self, *, anew: bool) -> Iterator[tuple[slice, Tensor]]:
        """Return places and their patches (G, K, places), as many rows of the output at a time."""
        group, channels, _, _, batch = self.x.shape
        height, width = self.sides
        values = channels * prod(self.kernel)
        line = width * batch
        rows = min(height, max(1, PATCH_BYTES // (4 * group * values * line)))
        for top in range(0, height, rows):
            count = min(rows, height - top)
            name = f"{self.name} patches" if count == rows else f"{self.name} last patches"
            patches = self.room.take(name, (group, values, count * line))
            if anew or rows < height:
                self._shifts(patches, count).copy_(self._windows(top, count))
            yield slice(top * line, (top + count) * line), patches

    def _shifts(self, patches: Tensor, count: int) -> Tensor:
        """Return patches as (G, C, kh, kw, rows, W', B)."""
        shape = (len(patches), self.x.shape[1], *self.kernel, count, self.sides[1], -1)
        return patches.view(shape)

    def _windows(self, top: int, count: int) -> Tensor:
        """Return the input as (G, C, kh, kw, rows, W', B), where values stand many times."""
        (down, right), (fall, step) = self.stage.stride, self.stage.dilation
        g, c, h, w, b = self.x.stride()
        shape = (*self.x.shape[:2], *self.kernel, count, self.sides[1], self.x.shape[4])
        strides = (g, c, fall * h, step * w, down * h, right * w, b)
        return self.x.as_strided(shape, strides, self.x.storage_offset() + top * down * h)

    def _fold(self, patches: Tensor, places: slice, below: Tensor) -> None:
        """Add each value of the patches where it came from."""
        (down, right), (fall, step) = self.stage.stride, self.stage.dilation
        line = self.sides[1] * self.x.shape[4]
        top, count = places.start // line, (places.stop - places.start) // line
        shifts = self._shifts(patches, count)
        for i, j in product(range(self.kernel[0]), range(self.kernel[1])):
            y, x = i * fall + top * down, j * step
            rows = slice(y, y + down * (count - 1) + 1, down)
            columns = slice(x, x + right * (self.sides[1] - 1) + 1, right)
            below[:, :, rows, columns].add_(shifts[:, :, i, j])


class Pooling:
    """Max-pooling of windows that do not overlap; of equal values the first one counts.

    Going ahead, each place of a window that is greater than all before it leaves by how much in
    the input's own memory; going back, the last such place takes the slope.

    Parameters
    ----------
    stage : Pool
        The windows.
    room : Room
        Where its buffers lie.
    name : str
        What its buffers are called.
    """

    def __init__(self, stage: Pool, room: Room, name: str) -> None:
        self.stage, self.room, self.name = stage, room, name
        self.x = self.out = torch.empty(0)

    def ahead(self, x: Tensor) -> Tensor:
        """Return the maxima (G, C, H // wh, W // ww, B) of an input that is overwritten."""
        self.x = x
        first, *rest = self._places()
        most, other = (
            self.room.take(f"{self.name} {name}", tuple(first.shape)) for name in ("out", "other")
        )
        most.copy_(first)
        for place in rest:
            torch.maximum(most, place, out=other)
            place.sub_(most)
            most, other = other, most
        self.out = most.relu_() if self.stage.relu else most
        return self.out

    def back(self, d: Tensor) -> Tensor:
        """Return the slope at the input for that at the output, which is overwritten."""
        if self.stage.relu:
            d = _slope.grad_input(d, self.out, 0, grad_input=d)
        first, *rest = self._places()
        for place in reversed(rest):
            _slope.grad_input(d, place, 0, grad_input=place)
            d.sub_(place)
        first.copy_(d)
        height, width = (
            side * window for side, window in zip(first.shape[2:4], self.stage.window, strict=True)
        )
        self.x[:, :, height:] = 0
        self.x[:, :, :, width:] = 0
        return self.x

    def _places(self) -> list[Tensor]:
        """Return the values at each place of all windows, row by row of a window."""
        wh, ww = self.stage.window
        height, width = self.x.shape[2] // wh * wh, self.x.shape[3] // ww * ww
        return [self.x[:, :, i:height:wh, j:width:ww] for i in range(wh) for j in range(ww)]
