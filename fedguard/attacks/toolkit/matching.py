"""Pictures changed, within a bound, until their gradients are wanted ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def mismatch(wanted: list[Tensor], own: list[Tensor], weight: float) -> Tensor:
    """Return ``(1 - a)(1 - cos) + a |G_p - G_v| / (|G_v| |G_p|)`` of two lists of gradients."""
    one = torch.cat([part.flatten() for part in wanted])
    other = torch.cat([part.flatten() for part in own])
    norms = one.norm() * other.norm() + 1e-12
    angle = 1.0 - (one @ other) / norms
    found: Tensor = (1.0 - weight) * angle + weight * (other - one).norm() / norms
    return found


def matched(
    x: Tensor, start: Tensor, gap: Callable[[Tensor], Tensor], eps: float, steps: int
) -> Tensor:
    """Return the changes of pictures that make a gap small: signed Adam steps within a bound.

    Parameters
    ----------
    x : Tensor
        (M, ...) pictures in [0, 1].
    start : Tensor
        (M, ...) first changes, clamped to the bound.
    gap : callable
        From changed pictures, clamped to [0, 1], to what shall become small.
    eps : float
        Largest change of a pixel, above 0.
    steps : int
        Steps, at least 1; their size falls from ``0.1 eps`` to a tenth of that.
    """
    change = start.clamp(-eps, eps).detach().requires_grad_()
    optimiser = torch.optim.Adam([change], lr=0.1 * eps)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (slope,) = torch.autograd.grad(gap((x + change).clamp(0.0, 1.0)), change)
        change.grad = slope.sign()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            change.clamp_(-eps, eps)
    return change.detach()
