"""What clients report beside their models, made to fit together before a server reads it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

_REACH = 10.0
"""How many times the quartiles' distance and the median's size a figure may lie off the median."""

_LOSS = "loss"


def fitting(
    reported: Mapping[int, Mapping[str, Any]], keep: frozenset[str] = frozenset()
) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """Return what each client reports as all servers can read it, and whose report cannot be.

    1. What more than half of the clients report is what a report has. A client that leaves some of
       it out is set aside, since Flower's averaging stops at the first odd one; what fewer report
       is left out.
    2. A figure that is one number, a list of so many, or finite for most must be that for all.
    3. A number is moved to the nearer end of what is believed: the median, give or take ten times
       its own size and the quartiles' distance. A loss that is at least 0 for most is at least a
       tenth of the median for all: q-FedAvg takes a negative power of it, and one client's 0 would
       hold the model where it is.

    Parameters
    ----------
    reported : mapping of int to mapping
        Node to its figures by name.
    keep : frozenset of str
        Names whose values are never moved.

    Returns
    -------
    tuple
        Node to figures, and node to the reason why it is set aside; together all nodes.
    """
    counts = Counter(name for figures in reported.values() for name in figures)
    common = [name for name, count in counts.items() if 2 * count > len(reported)]
    usual = {name: _usual(name, reported) for name in common}
    odd: dict[int, str] = {}
    for node, figures in reported.items():
        for name in common:
            kind = _kind(figures[name]) if name in figures else "missing"
            if kind != usual[name]:
                odd[node] = f"metric {name!r} is {kind}, for most it is {usual[name]}"
                break
    kept = {
        node: {name: value for name, value in figures.items() if name in usual}
        for node, figures in reported.items()
        if node not in odd
    }
    for name in common:
        if usual[name] == "a number" and name not in keep:
            _bound(name, kept)
    return kept, odd


def _kind(value: Any) -> str:
    if isinstance(value, bool | str | bytes):
        return type(value).__name__
    if isinstance(value, list):
        numbers = [each for each in value if isinstance(each, int | float)]
        whole = all(math.isfinite(each) for each in numbers)
        return f"a list of {len(value)}" if whole else "a list that is not finite"
    return "a number" if math.isfinite(value) else "not finite"


def _usual(name: str, reported: Mapping[int, Mapping[str, Any]]) -> str:
    kinds = Counter(_kind(figures[name]) for figures in reported.values() if name in figures)
    return kinds.most_common(1)[0][0]


def _bound(name: str, kept: Mapping[int, dict[str, Any]]) -> None:
    """Move one figure of all clients into what is believed, in place."""
    values = np.array([figures[name] for figures in kept.values()], dtype=np.float64)
    if not len(values):
        return
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    reach = _REACH * (high - low + abs(middle))
    least, most = middle - reach, middle + reach
    if _LOSS in name.lower() and 2 * (values >= 0.0).sum() > len(values):
        least = max(least, middle / _REACH)
    for figures in kept.values():
        value = figures[name]
        if not least <= value <= most:
            figures[name] = type(value)(min(max(value, least), most))
