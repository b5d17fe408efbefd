"""Projection of a local model onto a ball around the global one."""

from __future__ import annotations

import math

import torch

from fedguard.training.base import LocalStep


def distance(step: LocalStep) -> float:
    """Return the Euclidean distance of the local parameters from the global ones."""
    squares = [
        float(torch.linalg.vector_norm(here.detach() - start, dtype=torch.float64)) ** 2
        for here, start in zip(step.parameters, step.start, strict=True)
    ]
    return math.sqrt(sum(squares))


def project(step: LocalStep, epsilon: float) -> None:
    """Move the local parameters, in place, to the nearest point at most `epsilon` away."""
    far = distance(step)
    if far <= epsilon:
        return
    with torch.no_grad():
        for here, start in zip(step.parameters, step.start, strict=True):
            here.copy_(start + (here - start) * (epsilon / far))
