"""From an assumed fraction of malicious clients to a number of clients."""

from __future__ import annotations

import math


def assumed_count(assumed_malicious: float, count: int) -> int:
    """Return how many of `count` clients are assumed malicious: the fraction, rounded up.

    The small subtrahend keeps 0.2 of 10 at 2 where floating point gives 2.0000000000000004.
    """
    return max(0, math.ceil(assumed_malicious * count - 1e-9))
