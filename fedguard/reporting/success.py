"""How far an attack got, in words that name the classes which it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedguard.records.reader import mapping, number, whole
from fedguard.reporting.wording import MISSING, bounded, counted, percent

MAX_NAME = 24


def success_words(summary: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return an attack's success in the last round and what it is a share of; None without one.

    A backdoor's success is the share of triggered inputs taken for its target; a targeted label
    flip's, the share of its source class taken for its target; a promoted item's, the share of
    users who never met it and have it among their first ten.

    Parameters
    ----------
    summary : mapping
        The content of ``summary.json``; an older run's names no classes.
    """
    final, aim = mapping(summary.get("final")), mapping(summary.get("aim"))
    told = {word: aim.get(word) for word in ("source", "target")}
    names = {word: repr(bounded(name, MAX_NAME)) for word, name in told.items() if name is not None}
    if number(final.get("target_rank")) is not None:
        item = names.get("target", "the target")
        return percent(final.get("er@10")), f" of users who never met {item} find it in their list"
    if number(final.get("attack_success_rate")) is not None:
        share = f" of triggered inputs taken for {names['target']}" if "target" in names else ""
        return percent(final["attack_success_rate"]), share
    if number(final.get("source_to_target")) is not None:
        share = f" of {names['source']} taken for {names['target']}" if len(names) == 2 else ""
        return percent(final["source_to_target"]), share
    return None


def lifespan_words(summary: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return how long an attack outlived its attackers, and of what; None where nobody knows.

    Parameters
    ----------
    summary : mapping
        The content of ``summary.json``; a run whose attackers never stopped has no lifespan.
    """
    found = mapping(summary.get("lifespan"))
    until, peak = whole(found.get("attacked_until")), percent(found.get("peak"))
    if until is None:
        return None
    rounds = whole(found.get("rounds"))
    told = f"after round {until}, to half of its peak of {peak}"
    if rounds is None:
        return MISSING, f"it never took: {peak} at its peak"
    if found.get("ended") is True:
        return counted(rounds, "round"), told
    return f"over {counted(rounds, 'round')}", told


def outlived_words(summary: Mapping[str, Any]) -> str:
    """Return the same in a few words that follow the last round's success; empty where unknown."""
    if (found := lifespan_words(summary)) is None:
        return ""
    peak = percent(mapping(summary["lifespan"]).get("peak"))
    if found[0] == MISSING:
        return f" · never took, {peak} at its peak"
    return f" · outlived liars by {found[0]}, from {peak}"
