"""How far an attack got, in words that name the classes which it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedguard.records.reader import mapping, number
from fedguard.reporting.wording import bounded, percent

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
