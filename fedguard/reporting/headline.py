"""The figure that a run is led by, such as accuracy or perplexity, and the run in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedguard.records.reader import mapping, number, sequence, whole
from fedguard.reporting.wording import (
    attacked,
    bounded,
    counted,
    figure,
    percent,
    spoken,
)

FELL = 0.05
"""Worse than the best round by more than this is called a fall: of 1, or of a number's size."""


@dataclass(frozen=True)
class Headline:
    """What a task is judged by first; accuracy where a run does not say.

    Attributes
    ----------
    name : str
        Its field in ``rounds.jsonl`` and ``summary.json``.
    higher_is_better : bool
        False for perplexity or an error.
    unit : str
        ``share`` of 1, shown in percent, or ``plain``, shown as a number.
    """

    name: str = "accuracy"
    higher_is_better: bool = True
    unit: str = "share"

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Headline:
        """Return the headline that a summary names."""
        told = mapping(summary.get("headline"))
        name = told.get("name")
        if not isinstance(name, str) or not name:
            return cls()
        unit = "plain" if told.get("unit") == "plain" else "share"
        return cls(name, told.get("higher_is_better") is not False, unit)

    @property
    def words(self) -> str:
        """Its name in words, of bounded length."""
        return bounded(spoken(self.name), 40)

    @property
    def title(self) -> str:
        """Its name at the start of a line."""
        return self.words[:1].upper() + self.words[1:]

    @property
    def is_share(self) -> bool:
        """Whether it is a share of 1."""
        return self.unit == "share"

    @property
    def worst_possible(self) -> float:
        """What a run counts as whose model has no such figure any more."""
        return 0.0 if self.higher_is_better else math.inf

    def of_run(self, figures: Mapping[str, Any]) -> float | None:
        """Return its value among a round's figures, None where it is missing."""
        return number(figures.get(self.name))

    def gain(self, value: float) -> float:
        """Return a value so that more is better, whatever the headline."""
        return value if self.higher_is_better else -value

    def best(self, values: Iterable[float]) -> float:
        """Return the best of some values."""
        return max(values, key=self.gain)

    def worst(self, values: Iterable[float]) -> float:
        """Return the worst of some values."""
        return min(values, key=self.gain)

    def text(self, value: object) -> str:
        """Return a value as text: ``94.2 %`` or ``17.3``."""
        if isinstance(value, float) and math.isinf(value):
            return "∞"
        return percent(value) if self.is_share else figure(value)

    def labelled(self, value: object) -> str:
        """Return its name and a value: ``accuracy 94.2 %``."""
        return f"{self.words} {self.text(value)}"

    def within(self, value: object) -> str:
        """Return a value as it stands in a sentence: ``94.2 % accuracy``, ``an error of 3``."""
        text = self.text(value)
        article = "an" if self.words[:1] in tuple("aeiou") else "a"
        return f"{text} {self.words}" if self.is_share else f"{article} {self.words} of {text}"

    def cell(self, value: float | None, decimals: int = 1) -> str:
        """Return a value for a narrow column; shares in percent, without the sign."""
        if value is None or math.isnan(value):
            return ""
        if math.isinf(value) or not self.is_share:
            return "∞" if math.isinf(value) else f"{value:.4g}"
        return f"{100 * value:.{decimals}f}"

    def difference(self, value: float) -> str:
        """Return a difference with its sign; of shares in percentage points."""
        return f"{100 * value:+.1f}" if self.is_share else f"{value:+.4g}"

    @property
    def steps(self) -> str:
        """What a difference is counted in."""
        return "points" if self.is_share else f"in {self.words}"

    def fell(self, value: float, best: float) -> bool:
        """Return whether a value is clearly worse than the best one."""
        room = FELL if self.is_share else FELL * abs(best)
        return self.gain(value) < self.gain(best) - room


def sentence(summary: Mapping[str, Any]) -> str:
    """Return the run's result as one sentence of plain words."""
    strategy = str(summary.get("strategy") or "An unnamed strategy")
    parts = [f"{strategy} {_outcome(summary)}{_circumstance(summary)}", *_defence(summary)]
    return "; ".join(parts) + "."


def _outcome(summary: Mapping[str, Any]) -> str:
    lead = Headline.of(summary)
    best = mapping(summary.get("best"))
    value, top = lead.of_run(mapping(summary.get("final"))), lead.of_run(best)
    if value is None:
        return f"ran without a recorded {lead.words}"
    classes = len(sequence(summary.get("class_names")))
    if lead.name == "accuracy" and classes > 1 and value < 1.5 / classes:
        ending = f", about what guessing among {classes} classes gives,"
        return f"ended at {lead.within(value)}{ending}"
    if top is not None and lead.fell(value, top):
        when = whole(best.get("round"))
        ending = "" if when is None else f" in round {when}"
        moved = "fell to" if lead.higher_is_better else "rose to"
        return f"{moved} {lead.within(value)} (its best was {lead.text(top)}{ending})"
    return f"{'kept' if attacked(summary) else 'reached'} {lead.within(value)}"


def _circumstance(summary: Mapping[str, Any]) -> str:
    clients, malicious = whole(summary.get("clients")), whole(summary.get("malicious"))
    if attacked(summary):
        crowd = (
            f" by {malicious} of {counted(clients)}"
            if clients is not None and malicious is not None
            else ""
        )
        return f" under {summary['attack']}{crowd}"
    return "" if clients is None else f" with {counted(clients, 'honest client')}"


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
