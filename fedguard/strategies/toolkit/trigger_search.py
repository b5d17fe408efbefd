"""Which small patch would turn the model most, searched for on the server's examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.strategies.toolkit.server_validation import Objective, pushes
from fedguard.updates import ClientUpdates

BARE_SHARE = 0.7
"""Who moves bare examples by more than this share of what stamped ones move teaches no patch."""


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


def stamp_effect(triggers: Triggers, target: int, x: Tensor, y: Tensor) -> Objective:
    """Return how far a patch moves a model's examples from their own class towards its class.

    ``mean_i (z_t - z_y)(stamp(x_i)) - (z_t - z_y)(x_i)`` with logits z, over the examples of other
    classes. What a model thinks of the class without the patch cancels, so a client that has
    mostly examples of the class does not look like one that plants the patch.
    """
    stamped, clean = _leans(triggers, target, x, y)
    return lambda model: stamped(model) - clean(model)


def teachers(tools: ServerTools, triggers: Triggers, target: int, updates: ClientUpdates) -> Tensor:
    """Return the (K,) mask of clients that move a class' patch, more than its bare examples.

    With ``s_k`` and ``c_k`` the first-order changes of ``mean_i (z_t - z_y)`` on stamped and on
    bare examples of other classes by update k, at the model that is loaded: ``s_k > 0`` and
    ``c_k <= 0.7 s_k``. A client that holds much of class t pushes everything towards t, the patch
    hardly more than the rest (0.8 and more of it, where two labels are all that clients hold).
    """
    stamped, clean = _leans(triggers, target, tools.x, tools.y)
    on_stamped = pushes(tools, stamped, updates)
    return (on_stamped > 0.0) & (pushes(tools, clean, updates) <= BARE_SHARE * on_stamped)


def _leans(triggers: Triggers, target: int, x: Tensor, y: Tensor) -> tuple[Objective, Objective]:
    """Return how far a model leans to a class on stamped and on bare examples of the others."""
    rows = y != target
    bare, own = x[rows], y[rows, None]
    stamped = triggers.stamp(bare, target)

    def lean_on(examples: Tensor) -> Objective:
        return lambda model: _lean(model(examples), own, target).mean()

    return lean_on(stamped), lean_on(bare)


def _lean(logits: Tensor, own: Tensor, target: int) -> Tensor:
    return logits[:, target] - logits.gather(1, own)[:, 0]
