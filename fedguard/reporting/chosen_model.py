"""Which round's model was kept as the best, on which rows it was chosen, why a run ended early."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedguard.records.reader import mapping, number, whole
from fedguard.reporting.headline import Headline
from fedguard.reporting.wording import bounded, percent, spoken

FLATTERING = "the test set: flattering"
_ROWS = re.compile(r"the server's (\d+) rows(, which .* uses as well)?")


def best_words(summary: Mapping[str, Any]) -> str:
    """Return the best model's round, its figure on the test set, and where it was chosen.

    Empty where none was kept.
    """
    best, lead = mapping(summary.get("best_model")), Headline.of(summary)
    when = whole(best.get("round"))
    if when is None:
        return ""
    told = f"round {when} · {lead.text(best.get(lead.name))}"
    where = _in_few_words(best.get("judged_on")) if best.get("held_out") is True else FLATTERING
    if best.get("by") == "attack_success_rate" and number(best.get("judged")) is not None:
        return f"{told} · attack {percent(best['judged'])} · on {where}"
    return f"{told} · chosen on {where}"


def _in_few_words(judged_on: object) -> str:
    """Return where a model was chosen so that the line fits; the report has it in full."""
    found = _ROWS.fullmatch(str(judged_on))
    if found is None:
        return bounded(judged_on, 40)
    rows = f"{found[1]} server rows"
    return f"{rows}, shared" if found[2] else rows


def chosen_words(summary: Mapping[str, Any]) -> str:
    """Return by what and on which rows the best model was chosen."""
    best = mapping(summary.get("best_model"))
    if whole(best.get("round")) is None:
        return ""
    told = f"by {bounded(spoken(str(best.get('by'))), 30)} on {bounded(best.get('judged_on'), 90)}"
    return told if best.get("held_out") is True else f"{told}, where it is therefore flattering"


def rounds_words(summary: Mapping[str, Any]) -> str:
    """Return how many rounds a run had, and why it had no more: ``7 of 20 rounds``."""
    planned, stopped = whole(summary.get("rounds")), mapping(summary.get("stopped"))
    if planned is None:
        return ""
    last, waited = whole(stopped.get("round")), whole(stopped.get("patience"))
    if last is None or waited is None:
        return f"{planned} round{'' if planned == 1 else 's'}"
    return f"{last} of {planned} rounds, {waited} without a better model"
