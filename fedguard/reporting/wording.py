"""Numbers and texts as people read them; for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedguard.records.reader import number, whole

MISSING = "–"
"""What stands where a figure is missing."""


def percent(value: object) -> str:
    """Return a share of 1 as text, such as ``94.2 %``."""
    share = number(value)
    return MISSING if share is None else f"{100 * share:.1f} %"


def figure(value: object) -> str:
    """Return a number with four significant digits."""
    real = number(value)
    return MISSING if real is None else f"{real:.4g}"


def duration(value: object) -> str:
    """Return seconds in the unit that suits: ``0.42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    seconds = number(value)
    if seconds is None or seconds < 0:
        return MISSING
    if seconds < 59.5:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(value: object) -> str:
    """Return bytes as text in MB or GB."""
    count = number(value)
    if count is None or count < 0:
        return MISSING
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def time_left(seconds: float) -> str:
    """Return how long something goes on, in whole seconds and never 0: ``12 s left``."""
    return f"{max(round(seconds), 1)} s left" if seconds < 59 else f"{duration(seconds)} left"


def bounded(value: object, limit: int) -> str:
    """Return a text on one line, of bounded length.

    What cannot be printed is shown as ``�``: a text from a client must not steer a terminal, nor
    turn the direction of the words around it.
    """
    line = " ".join(str(value).split())
    seen = "".join(letter if letter.isprintable() else "�" for letter in line)
    return seen if len(seen) <= limit else seen[: limit - 1] + "…"


def spoken(name: str) -> str:
    """Return a field's name in words."""
    return name.replace("_", " ")


def counted(count: int, what: str = "client") -> str:
    """Return a count with its noun: ``1 client``, ``20 clients``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def attacked(summary: Mapping[str, Any]) -> bool:
    """Return whether the run had an attack and someone to carry it out."""
    attack = summary.get("attack")
    return attack not in (None, "", "none") and number(summary.get("malicious")) != 0.0


def setting(summary: Mapping[str, Any]) -> str:
    """Return who faced whom: ``krum under min-max by 4 of 20 clients``."""
    strategy = str(summary.get("strategy") or "an unnamed strategy")
    clients, malicious = whole(summary.get("clients")), whole(summary.get("malicious"))
    if not attacked(summary):
        return strategy if clients is None else f"{strategy} with {counted(clients)}"
    text = f"{strategy} under {summary['attack']}"
    if clients is None or malicious is None:
        return text
    return f"{text} by {malicious} of {counted(clients)}"
