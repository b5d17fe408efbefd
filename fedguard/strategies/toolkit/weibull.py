"""Weibull laws fitted to validation scores."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import exponweib, weibull_min

Vector = NDArray[np.float64]

SAME = 1e-6
"""Scores that lie within this of each other count as identical: no law fits them."""

_LOWEST = 1e-6
_LARGEST_SHAPE = 1e3


@dataclass(frozen=True)
class Weibull:
    """``F(v) = (1 - exp(-(v / scale)^shape))^power``, location 0.

    Attributes
    ----------
    shape, scale : float
        beta and lambda, above 0.
    power : float
        1 for the two-parameter law; the exponentiated law's exponent otherwise.
    """

    shape: float
    scale: float
    power: float = 1.0

    def cdf(self, scores: Vector) -> Vector:
        """Return F of (K,) scores."""
        values = exponweib.cdf(
            np.clip(scores, _LOWEST, None), self.power, self.shape, 0, self.scale
        )
        return np.asarray(values, dtype=np.float64)


def fit(scores: Vector, *, exponentiated: bool = False) -> Weibull | None:
    """Return the law of greatest likelihood, or None where there is none worth the name.

    None for fewer than 2 scores, identical ones, and fits that diverge. The location is fixed at
    0: left free, it runs to the smallest score, which then always looks impossible.

    Parameters
    ----------
    scores : ndarray
        (K,) in [0, 1], in any order.
    exponentiated : bool
        Whether the exponent is free.
    """
    values = np.sort(np.clip(scores, _LOWEST, None))
    if len(values) < 2 or np.ptp(values) < SAME:
        return None
    if exponentiated:
        return _uncensored(values, exponweib)
    return _uncensored(values, weibull_min)


def fit_left_censored(scores: Vector, share: float = 0.5) -> Weibull | None:
    """Return the two-parameter law of the upper scores; of the lower ones only their number counts.

    The lowest ``floor(share K)`` scores enter the likelihood as "at most the lowest of the
    others". Attackers among them can then not pull the law down to themselves.

    Parameters
    ----------
    scores : ndarray
        (K,) in [0, 1], in any order.
    share : float
        Share that is censored, 0 to below 1.
    """
    values = np.sort(np.clip(scores, _LOWEST, None))
    hidden = int(share * len(values))
    seen = values[hidden:]
    if len(seen) < 2 or np.ptp(seen) < SAME:
        return None
    return _greatest(seen, hidden)


def _greatest(seen: Vector, hidden: int) -> Weibull | None:
    """Maximise the censored likelihood over the logarithms of shape and scale."""
    logs = np.log(seen)
    first = np.log(seen[0])
    width = max(float(logs.std()), 1e-9)

    def loss(point: Vector) -> float:
        shape = np.exp(point[0])
        powers = np.exp(shape * (logs - point[1]))
        density = len(seen) * point[0] + ((shape - 1.0) * logs - shape * point[1] - powers).sum()
        below = np.log(-np.expm1(-np.exp(shape * (first - point[1])))) if hidden else 0.0
        total = -(density + hidden * below)
        return float(total) if np.isfinite(total) else 1e300

    # The standard deviation of the logarithm of a Weibull variable is pi / (sqrt(6) beta).
    start = [np.log(math.pi / math.sqrt(6.0) / width), logs.mean()]
    with np.errstate(all="ignore"):
        found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-8})
    return _checked(*np.exp(found.x)) if found.success else None


def _uncensored(values: Vector, family: Any) -> Weibull | None:
    """Return SciPy's fit with the location fixed at 0."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            *shapes, _, scale = family.fit(values, floc=0)
    except (ValueError, RuntimeError, ArithmeticError):
        return None
    power, shape = shapes if len(shapes) == 2 else (1.0, shapes[0])
    return _checked(shape, scale, power)


def _checked(shape: float, scale: float, power: float = 1.0) -> Weibull | None:
    """Return the law, or None where a parameter is no positive number or a shape is absurd."""
    found = (float(shape), float(scale), float(power))
    if not all(math.isfinite(value) and value > 0.0 for value in found):
        return None
    return None if max(found[0], found[2]) > _LARGEST_SHAPE else Weibull(*found)


def mad_keep(scores: Vector, limit: float = 3.0) -> NDArray[np.bool_]:
    """Return which scores are no further than `limit` robust deviations below the median.

    The deviation is 1.4826 times the median absolute deviation, at least 0.001.
    """
    middle = np.median(scores)
    width = max(1.4826 * float(np.median(np.abs(scores - middle))), 1e-3)
    keep: NDArray[np.bool_] = scores >= middle - limit * width
    return keep
