"""Which small patch would turn the model most, searched for on the server's examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

_LEAST = 1e-6
"""Probabilities below it count as this one."""


@dataclass(frozen=True)
class Triggers:
    """One candidate patch per class.

    Attributes
    ----------
    mask : Tensor
        (C, ...) opacity of each input position, 0 to 1; images share it over their channels.
    pattern : Tensor
        (C, *input_shape) what shows through the mask.
    """

    mask: Tensor
    pattern: Tensor

    def stamp(self, x: Tensor, target: int) -> Tensor:
        """Return examples (M, *input_shape) with the patch of class `target` on them."""
        return x + self.mask[target] * (self.pattern[target] - x)


def search_triggers(
    model: nn.Module, x: Tensor, num_classes: int, *, budget: float, steps: int
) -> Triggers:
    """Return for every class the small patch that moves the examples most into it.

    Minimises ``mean_i CE(f(x_i + m (p - x_i)), t)`` over masks ``0 <= m <= 1`` that cover at most
    the share `budget` of the input positions, and over patterns p within the range of `x`, for all
    classes t at once. Frank-Wolfe from the empty mask: a step moves towards the positions, and at
    each to the end of the range, that lower the linearised loss most, so the mask stays sparse and
    no penalty needs tuning. The aim is that of Wang et al., "Neural Cleanse: Identifying and
    Mitigating Backdoor Attacks in Neural Networks", IEEE S&P 2019; the search is ours.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    x : Tensor
        (M, *input_shape) examples, any classes.
    num_classes : int
        Number of classes C.
    budget : float
        Share of the input positions that a patch may cover, above 0 to 1.
    steps : int
        Forward and backward passes over ``C M`` examples, at least 1.
    """
    low, high = x.min(), x.max()
    positions = (1, *x.shape[2:]) if x.ndim == 4 else tuple(x.shape[1:])
    mask = torch.zeros(num_classes, *positions, device=x.device)
    pattern = torch.zeros(num_classes, *x.shape[1:], device=x.device)
    area = max(1, round(budget * mask[0].numel()))
    targets = torch.arange(num_classes, device=x.device).repeat_interleave(len(x))
    for step in range(steps):
        stamped = x + mask[:, None] * (pattern[:, None] - x)
        slope = _slope(model, stamped, targets)
        along = (slope * x).sum(dim=1)
        total = slope.sum(dim=1)
        value = torch.where(total < 0.0, high, low)
        gain = along - total * value
        if mask.shape != pattern.shape:
            gain = gain.sum(dim=1, keepdim=True)
        best = gain.flatten(1).topk(area, dim=1)
        vertex = torch.zeros_like(mask).flatten(1)
        vertex = vertex.scatter_(1, best.indices, (best.values > 0.0).float()).view_as(mask)
        rate = 2.0 / (step + 2.0)
        mask = (1.0 - rate) * mask + rate * vertex
        fresh = torch.where(mask > 0.0, rate * vertex / mask.clamp(min=1e-9), 0.0)
        pattern = pattern + fresh * (value - pattern)
    return Triggers(mask, pattern)


def _slope(model: nn.Module, stamped: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of the loss towards the targets with respect to (C, M, ...) inputs."""
    with torch.enable_grad():
        flat = stamped.flatten(0, 1).requires_grad_(True)
        loss = cross_entropy(model(flat), targets, reduction="sum")
        (slope,) = torch.autograd.grad(loss, flat)
    return slope.view_as(stamped)


def success_rates(model: nn.Module, x: Tensor, y: Tensor, triggers: Triggers) -> Tensor:
    """Return (C,) shares of the examples of other classes that each patch moves into its class."""
    count = len(triggers.mask)
    rates = [success_rate(model, x, y, triggers, target) for target in range(count)]
    return torch.tensor(rates, dtype=torch.float64)


def success_rate(model: nn.Module, x: Tensor, y: Tensor, triggers: Triggers, target: int) -> float:
    """Return the share of the examples of other classes that one patch moves into its class."""
    others = x[y != target]
    if not len(others):
        return 0.0
    with torch.no_grad():
        moved = model(triggers.stamp(others, target)).argmax(dim=1) == target
    return float(moved.double().mean())


@dataclass(frozen=True)
class PatchEffect:
    """What the patch of a class does to a model.

    Attributes
    ----------
    moved : float
        Mean over the examples of other classes of ``P(class | stamped) - P(class | bare)``, -1 to
        1; 0 where there are none.
    known : float
        Mean of ``P(class | x)`` over the class' own examples, 0 to 1; 1 where there are none.
    bare : float
        Mean of ``P(class | x)`` over the examples of other classes, 0 to 1; 0 without any.
    """

    moved: float
    known: float
    bare: float


def patch_effects(
    model: nn.Module, x: Tensor, y: Tensor, triggers: Triggers, targets: Sequence[int]
) -> list[PatchEffect]:
    """Return how far each class' patch moves a model, and how well it knows the class bare."""
    bare = _chances(model, x)
    found = []
    for target in targets:
        others, own = y != target, y == target
        moved, known, leaning = 0.0, 1.0, 0.0
        if others.any():
            stamped = _chances(model, triggers.stamp(x[others], target))[:, target]
            leaning = float(bare[others, target].mean())
            moved = float(stamped.mean()) - leaning
        if own.any():
            known = float(bare[own, target].mean())
        found.append(PatchEffect(moved, known, leaning))
    return found


def _chances(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        chances: Tensor = model(x).softmax(dim=1).double()
    return chances


def explains(whole: PatchEffect, without: PatchEffect) -> float:
    """Return how much more of a patch than of its class an average loses without a client.

    ``log(moved / moved') - log(known / known')`` with the primes for the average without it. About
    0 for who holds much of the class and takes both along, above 0 for who brings the patch.
    """
    return _lost(whole.moved, without.moved) - _lost(whole.known, without.known)


def _lost(before: float, after: float) -> float:
    return math.log(max(before, _LEAST) / max(after, _LEAST))
