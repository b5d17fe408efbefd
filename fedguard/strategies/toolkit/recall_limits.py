"""Which models lost a class that the global model knows."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fedguard.strategies.toolkit.scoring import Scores

_FEWEST_EXAMPLES = 5
_FALSE_ALARM = 0.01
_KNOWN = 0.8
_GONE = 0.25


def below_recall_limits(
    found: Scores, finite: NDArray[np.bool_], examples: NDArray[np.int64], margin: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return how far recall lies below its limit, (K, C), and who lost a whole class, (K,).

    The former is minus 1 where a class cannot be tested: one with fewer than 5 examples, or of
    which the global model recalls less than 0.8.

    Parameters
    ----------
    found : Scores
        Of the global model, then of K clients' models.
    finite : ndarray
        (K,) models whose logits are finite.
    examples : ndarray
        (C,) examples of each class.
    margin : float
        Loss of recall that is always forgiven, 0 to 1.
    """
    anchor, recall = found.recall[0].numpy(), found.recall[1:].numpy()
    known = np.nan_to_num(anchor) >= _KNOWN
    tested = np.flatnonzero((examples >= _FEWEST_EXAMPLES) & known)
    beyond = np.full(recall.shape, -1.0)
    gone = np.zeros(len(recall), dtype=np.bool_)
    quantile = NormalDist().inv_cdf(1.0 - _FALSE_ALARM / max(len(tested), 1))
    for label in tested:
        column = recall[finite, label]
        middle = upper_median(column)
        centre = min(middle, float(anchor[label]))
        above = column[column >= middle]
        spread = 1.4826 * float(np.median(above - middle))
        error = (max(centre * (1.0 - centre), 0.0) / examples[label]) ** 0.5
        width = min(max(quantile * max(spread, error), margin), 0.6 * centre)
        beyond[:, label] = centre - width - recall[:, label]
        gone |= finite & (beyond[:, label] > 0.0) & (recall[:, label] < _GONE * centre)
    return beyond, gone


def upper_median(values: NDArray[np.float64]) -> float:
    """Return the median of (N,) values, the upper of the middle two where N is even."""
    return float(np.sort(values)[len(values) // 2])
