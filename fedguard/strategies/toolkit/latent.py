"""Latent-space view of client models: activations on auxiliary data and their distances."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fedguard.layout import ParameterLayout
from fedguard.models.build import latent_activations
from fedguard.strategies.toolkit.server_tools import ServerTools


def client_activations(
    tools: ServerTools, layout: ParameterLayout, models: Iterable[Tensor], x: Tensor
) -> Tensor:
    """Return the (K, m, p) float32 latent activations of K (D,) models on (m, ...) examples.

    The tools' model is overwritten.
    """
    module = tools.model
    found = []
    for vector in models:
        layout.load(module, vector)
        found.append(latent_activations(module, x, tools.latent_layer))
    return torch.stack(found)


def squared_mmd(activations: Tensor) -> Tensor:
    """Return the (K, K) float64 squared maximum mean discrepancies between clients.

    Unbiased estimator, clipped at 0, with one RBF kernel for all pairs, so that they compare:
    ``MMD^2(X, Y) = mean_{a!=b} k(x_a, x_b) + mean_{a!=b} k(y_a, y_b) - 2 mean_{a,b} k(x_a, y_b)``
    with ``k(a, b) = exp(-g |a - b|^2)`` and ``g = 1 / (2 median |a - b|^2)`` over the pooled
    activations. Zero for constant activations.

    Gretton et al., "A Kernel Two-Sample Test", JMLR 2012.

    Parameters
    ----------
    activations : Tensor
        (K, m, p) finite, m >= 2.
    """
    clients, samples, _ = activations.shape
    pooled = activations.flatten(0, 1).to(torch.float64, copy=True)
    pooled -= pooled.mean(dim=0)
    norms = pooled.norm(dim=1).square()
    width = _median_squared_distance(pooled)
    means = torch.zeros(clients, clients, dtype=torch.float64)
    within = torch.zeros(clients, dtype=torch.float64)
    if width <= 0.0:
        return means
    for i in range(clients):
        rows = slice(i * samples, (i + 1) * samples)
        squared = norms[rows, None] + norms[None, :] - 2.0 * pooled[rows] @ pooled.T
        kernel = torch.exp(squared.clamp_(min=0.0).mul_(-0.5 / width))
        means[i] = kernel.view(samples, clients, samples).mean(dim=(0, 2))
        # k(a, a) = 1: the diagonal is left out of the within-client mean.
        within[i] = (kernel[:, rows].sum() - samples) / (samples * (samples - 1))
    result = within[:, None] + within[None, :] - 2.0 * means
    return result.clamp_(min=0.0).fill_diagonal_(0.0)


def _median_squared_distance(pooled: Tensor, most: int = 1000) -> float:
    """Return the median squared distance between pooled rows, on an even subset of them."""
    step = max(1, len(pooled) // most)
    subset = pooled[::step]
    distances = torch.pdist(subset)
    return float(distances.median() ** 2) if len(distances) else 0.0
