"""The Gaussian mechanism on embeddings: calibration, its slope, and the account of all releases."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from dp_accounting import get_epsilon_gaussian, get_sigma_gaussian
from scipy.special import log_ndtr
from torch import Tensor


@lru_cache(maxsize=4096)
def noise_multiplier(epsilon: float, delta: float) -> float:
    """Return the noise m = sigma / S that makes one release (epsilon, delta)-private.

    The smallest m with ``Phi(1/(2m) - epsilon m) - e^epsilon Phi(-1/(2m) - epsilon m) <= delta``.
    Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy: Analytical
    Calibration and Optimal Denoising", ICML 2018; solved by the dp-accounting library.

    Parameters
    ----------
    epsilon : float
        > 0; values above 1 are allowed, unlike in the classical calibration.
    delta : float
        In (0, 1).
    """
    return float(get_sigma_gaussian(epsilon, delta))


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


def clip_rows(h: Tensor, bound: float) -> Tensor:
    """Return (B, E) rows scaled down to L2 norm at most `bound`; differentiable."""
    norms = h.norm(dim=1, keepdim=True).clamp_min(1e-12)
    clipped: Tensor = h * (bound / norms).clamp(max=1.0)
    return clipped


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
