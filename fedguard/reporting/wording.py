"""Numbers as people read them, and a run in one sentence; for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedguard.records.reader import mapping, number, sequence, whole

MISSING = "–"
"""What stands where a figure is missing."""

FELL = 0.05
"""Accuracy below the best round's by more than this is called a fall."""


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


def attacked(summary: Mapping[str, Any]) -> bool:
    """Return whether the run had an attack and someone to carry it out."""
    attack = summary.get("attack")
    return attack not in (None, "", "none") and number(summary.get("malicious")) != 0.0


def setting(summary: Mapping[str, Any]) -> str:
    """Return who faced whom: ``krum under min-max by 4 of 20 clients``."""
    strategy = str(summary.get("strategy") or "an unnamed strategy")
    clients, malicious = whole(summary.get("clients")), whole(summary.get("malicious"))
    if not attacked(summary):
        return strategy if clients is None else f"{strategy} with {clients} {_clients(clients)}"
    text = f"{strategy} under {summary['attack']}"
    if clients is None or malicious is None:
        return text
    return f"{text} by {malicious} of {clients} {_clients(clients)}"


def _clients(count: int) -> str:
    return "client" if count == 1 else "clients"


def headline(summary: Mapping[str, Any]) -> str:
    """Return the run's result as one sentence of plain words."""
    strategy = str(summary.get("strategy") or "An unnamed strategy")
    parts = [f"{strategy} {_outcome(summary)}{_circumstance(summary)}", *_defence(summary)]
    return "; ".join(parts) + "."


def _outcome(summary: Mapping[str, Any]) -> str:
    final, best = mapping(summary.get("final")), mapping(summary.get("best"))
    accuracy, top = number(final.get("accuracy")), number(best.get("accuracy"))
    if accuracy is None:
        return "ran without a recorded accuracy"
    classes = len(sequence(summary.get("class_names")))
    if classes > 1 and accuracy < 1.5 / classes:
        ending = f", about what guessing among {classes} classes gives,"
        return f"ended at {percent(accuracy)} accuracy{ending}"
    if top is not None and accuracy < top - FELL:
        when = whole(best.get("round"))
        ending = "" if when is None else f" in round {when}"
        return f"fell to {percent(accuracy)} accuracy (its best was {percent(top)}{ending})"
    return f"{'kept' if attacked(summary) else 'reached'} {percent(accuracy)} accuracy"


def _circumstance(summary: Mapping[str, Any]) -> str:
    clients, malicious = whole(summary.get("clients")), whole(summary.get("malicious"))
    if attacked(summary):
        crowd = (
            f" by {malicious} of {clients} {_clients(clients)}"
            if clients is not None and malicious is not None
            else ""
        )
        return f" under {summary['attack']}{crowd}"
    return "" if clients is None else f" with {clients} honest {_clients(clients)}"


def _defence(summary: Mapping[str, Any]) -> list[str]:
    detection = mapping(summary.get("detection"))
    caught = number(detection.get("true_positive_rate"))
    wronged = number(detection.get("false_positive_rate"))
    success = number(mapping(summary.get("final")).get("attack_success_rate"))
    parts = []
    if attacked(summary) and caught is not None:
        honest = "" if wronged is None else f" and {percent(wronged)} of honest ones"
        parts.append(f"it rejected {percent(caught)} of their updates{honest}")
    elif wronged:
        parts.append(f"it rejected {percent(wronged)} of their updates")
    if success is not None:
        turn = "but " if success >= 0.5 else ""
        parts.append(f"{turn}the attack succeeded on {percent(success)} of the inputs it aims at")
    return parts
