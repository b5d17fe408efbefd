"""The Gaussian mechanism on embeddings: calibration, its slope, and the account of all releases."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import torch
from dp_accounting import get_epsilon_gaussian
from scipy.optimize import brentq
from scipy.special import log_ndtr
from torch import Tensor

_TOLERANCE = 1e-12


def _log_delta(multiplier: float, epsilon: float) -> float:
    """Return the logarithm of the Gaussian mechanism's exact delta (Balle and Wang, theorem 8)."""
    half, shift = 0.5 / multiplier, epsilon * multiplier
    above = float(log_ndtr(half - shift))
    below = epsilon + float(log_ndtr(-half - shift))
    return above + math.log1p(-math.exp(below - above)) if below < above else -math.inf


@lru_cache(maxsize=4096)
def noise_multiplier(epsilon: float, delta: float) -> float:
    """Return the noise m = sigma / S that makes one release (epsilon, delta)-private.

    The smallest m with ``Phi(1/(2m) - epsilon m) - e^epsilon Phi(-1/(2m) - epsilon m) <= delta``.
    Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy: Analytical
    Calibration and Optimal Denoising", ICML 2018. The dp-accounting library solves the same
    equation; parties move their epsilon every round, and its way takes 20 times as long.

    Parameters
    ----------
    epsilon : float
        > 0; values above 1 are allowed, unlike in the classical calibration.
    delta : float
        In (0, 1).
    """
    wanted = math.log(delta)
    low, high = 0.1, 1.0
    while _log_delta(low, epsilon) < wanted:
        low, high = low / 10.0, low
    while _log_delta(high, epsilon) > wanted:
        low, high = high, high * 10.0
    return float(brentq(lambda m: _log_delta(m, epsilon) - wanted, low, high, xtol=_TOLERANCE))


def epsilon_of(multiplier: float, delta: float) -> float:
    """Return the epsilon at `delta` of one Gaussian release: `noise_multiplier` turned round."""
    wanted = math.log(delta)
    if _log_delta(multiplier, 0.0) <= wanted:
        return 0.0
    low, high = 0.0, 1.0
    while _log_delta(multiplier, high) > wanted:
        low, high = high, high * 10.0
    return float(brentq(lambda e: _log_delta(multiplier, e) - wanted, low, high, xtol=_TOLERANCE))


@lru_cache(maxsize=4096)
def noise_multiplier_slope(epsilon: float, delta: float) -> float:
    """Return d m / d epsilon < 0 of `noise_multiplier`, by the implicit function theorem.

    With a = 1/(2m) - epsilon m and b = -1/(2m) - epsilon m, and because
    ``e^epsilon phi(b) = phi(a)``: ``dm/depsilon = -e^epsilon Phi(b) m^2 / phi(a)``.
    """
    m = noise_multiplier(epsilon, delta)
    a = 1.0 / (2.0 * m) - epsilon * m
    b = -1.0 / (2.0 * m) - epsilon * m
    log_density = -0.5 * a * a - 0.5 * math.log(2.0 * math.pi)
    return -math.exp(epsilon + float(log_ndtr(b)) - log_density) * m * m


def clip_factors(h: Tensor, bound: float) -> Tensor:
    """Return (..., 1) what (..., E) rows are divided by to L2 norm at most `bound`; 1 or more."""
    norms: Tensor = torch.linalg.vector_norm(h, dim=-1, keepdim=True)
    return (norms / bound).clamp_min(1.0)


def clip_rows(h: Tensor, bound: float) -> Tensor:
    """Return (..., E) rows scaled down to L2 norm at most `bound`; differentiable."""
    return h / clip_factors(h, bound)


def clip_gradient(clipped: Tensor, factors: Tensor, gradient: Tensor, bound: float) -> Tensor:
    """Return the gradient before clipping, from the one after it.

    A row that was clipped to ``bound u`` passes on ``(g - u <u, g>) / factor``, others g.

    Parameters
    ----------
    clipped, factors : Tensor
        (..., E) rows after clipping and what they were divided by, (..., 1).
    gradient : Tensor
        (..., E) gradient with respect to the clipped rows.
    bound : float
        L2 bound of the clipping.
    """
    along = torch.linalg.vecdot(clipped, gradient)[..., None] * (factors > 1.0)
    return torch.addcmul(gradient, clipped, along, value=-1.0 / bound**2) / factors


def total_epsilon(multipliers: Iterable[float], delta: float) -> float:
    """Return the epsilon at `delta` of all Gaussian releases of one row together.

    Gaussian mechanisms with multipliers m_1, m_2, ... compose exactly to one with
    ``m = (sum m_t^-2)^(-1/2)`` (Dong et al., "Gaussian Differential Privacy", JRSS B 2022), whose
    epsilon the dp-accounting library finds.

    Parameters
    ----------
    multipliers : iterable of float
        sigma / S of each release; an infinite one releases nothing, 0 no privacy at all.
    delta : float
        In (0, 1).
    """
    precision = 0.0
    for multiplier in multipliers:
        if multiplier <= 0.0:
            return math.inf
        precision += multiplier**-2
    if precision == 0.0:
        return 0.0
    return float(get_epsilon_gaussian(precision**-0.5, delta))
