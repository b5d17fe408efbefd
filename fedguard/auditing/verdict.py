"""What an outcome means: which figure leads, how much of it is kept, and what that is called."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedguard.errors import ConfigurationError, nearest

SOURCES = ("yours", "server", "clients", "train")
"""Where figures come from: the user's function, the server's evaluation, clients', training."""

_GOOD = ("accuracy", "acc", "f1", "auc", "score", "precision", "recall", "r2", "iou", "map", "bleu")
_BAD = ("loss", "error", "mse", "rmse", "mae", "perplexity", "nll")

BROKEN_BELOW = 0.5
"""Share of what was learnt below which an app counts as broken ..."""
HARMED_BELOW = 0.9
"""... and as harmed."""

_MOST_SPREAD = 0.3
"""What the app's own spread excuses at most."""

HELD = 600.0
"""Seconds per round that a server may wait for a client that never answers."""

BROKEN, HARMED, STANDS, HELD_UP, UNREACHED = (
    "broken",
    "harmed",
    "stands",
    "held up",
    "not reached",
)


@dataclass(frozen=True)
class Headline:
    """The figure by which an app is judged.

    Attributes
    ----------
    name : str
        ``source/name``; empty where the app reports nothing, and the model's way is measured.
    higher : bool
        Whether more is better.
    peace : float
        Its mean in peace.
    untrained : float or None
        Its value before training.
    spread : float
        Half the distance between the highest and the lowest peaceful run, as a share of what was
        learnt.
    """

    name: str
    higher: bool
    peace: float
    untrained: float | None
    spread: float

    @property
    def words(self) -> str:
        """The figure's name for people."""
        if not self.name:
            return "nearness to the peaceful model"
        source, _, name = self.name.partition("/")
        return f"{name} ({_SAID[source]})"

    def kept(self, value: float | None) -> float:
        """Return how much of what is learnt in peace is there: 1 all, 0 nothing or worse."""
        if value is None or not math.isfinite(value):
            return 0.0
        if self.untrained is not None and self.untrained != self.peace:
            share = (value - self.untrained) / (self.peace - self.untrained)
        elif self.higher:
            share = value / self.peace if self.peace else float(value >= 0.0)
        else:
            share = self.peace / value if value else 1.0
        return max(0.0, share)


_SAID = {
    "yours": "by your function",
    "server": "on the server",
    "clients": "on honest clients",
    "train": "in training",
}


def headline(peaceful: Sequence[Mapping[str, Any]], metric: str | None = None) -> Headline:
    """Return the figure that leads, found in the outcomes of peaceful runs.

    Parameters
    ----------
    peaceful : sequence of mapping
        Outcomes; at least one.
    metric : str, optional
        The name of the wanted figure, with or without its source.

    Raises
    ------
    ConfigurationError
        If no run reports a figure of that name.
    """
    names = [name for name, value in peaceful[0]["metrics"].items() if value is not None]
    names = [n for n in names if all(o["metrics"].get(n) is not None for o in peaceful)]
    if metric is not None:
        wanted = [n for n in names if metric in (n, n.partition("/")[2])]
        if not wanted:
            told = ", ".join(names) or "nothing: the app reports no figure"
            raise ConfigurationError("metric", metric, nearest(metric, names) + told)
        names = wanted
    ranked = sorted((n for n in names if _rank(n) is not None), key=lambda n: _rank(n) or (9, 9))
    leads = [_lead(name, peaceful) for name in ranked or (names if metric else [])]
    # What clients say of their own training need not get better with the common model.
    sound = [lead for lead in leads if metric or learns(lead) or not lead.name.startswith("train/")]
    return (sound or [Headline("", True, 1.0, 0.0, 0.0)])[0]


def _lead(chosen: str, peaceful: Sequence[Mapping[str, Any]]) -> Headline:
    """Return a figure as a headline."""
    values = [float(outcome["metrics"][chosen]) for outcome in peaceful]
    before = [o["untrained"].get(chosen) for o in peaceful]
    known = [float(value) for value in before if value is not None]
    peace = sum(values) / len(values)
    first = sum(known) / len(known) if known else None
    learnt = abs(peace - first) if first is not None else abs(peace)
    spread = (max(values) - min(values)) / 2 / learnt if learnt else 0.0
    higher = not any(word in chosen.lower() for word in _BAD)
    return Headline(chosen, higher, peace, first, spread)


def _rank(name: str) -> tuple[int, int] | None:
    """Return an order of figures: by source, then what is good before what is bad."""
    source, _, plain = name.partition("/")
    lower = plain.lower()
    for place, words in enumerate((_GOOD, _BAD)):
        if any(word in lower for word in words):
            return SOURCES.index(source) if source in SOURCES else 9, place
    return None


def learns(found: Headline) -> bool:
    """Return whether an app learns in peace, and more than its own runs lie apart."""
    if found.untrained is None:
        return True
    gained = found.peace - found.untrained
    return (gained > 0 if found.higher else gained < 0) and found.spread < 0.5


def judge(
    outcome: Mapping[str, Any], found: Headline, peaceful: Mapping[str, Any] | None
) -> tuple[str, float, str]:
    """Return what an outcome is called, what is kept, and why in a few words.

    Parameters
    ----------
    outcome : mapping
        The cell's outcome.
    found : Headline
        The figure that leads.
    peaceful : mapping or None
        The peaceful outcome of the same seed; ``distance`` in `outcome` is measured from it.
    """
    if outcome["ended"] != "finished":
        words = {"hung": "the round hangs", "raised": "the server stops", "exited": "the app exits"}
        told = words.get(outcome["ended"], "")
        reason = f"{told}: {outcome['reason']}" if told else str(outcome["reason"])
        return BROKEN, 0.0, reason
    if not outcome["applied"]:
        return UNREACHED, 1.0, "no client did it: none was asked, or the app has no such thing"
    if found.name:
        value = outcome["metrics"].get(found.name)
        kept = found.kept(value)
        figure = "NaN" if value is None else f"{value:.3g}"
        text = f"{found.name.partition('/')[2]} {figure}, {found.peace:.3g} in peace"
    else:
        way = (peaceful or {}).get("moved") or 0.0
        gone = outcome.get("distance")
        kept = 0.0 if gone is None or not way else max(0.0, 1.0 - gone / way)
        text = "the model's distance from the peaceful one, by the way that this one went"
    if (verdict := called(kept, found)) != STANDS:
        return verdict, kept, text
    each = outcome["waited"] / max(outcome["rounds"], 1)
    if each > HELD:
        return HELD_UP, kept, f"each round waits {spell(each)} for a client that never answers"
    return STANDS, kept, text


def called(kept: float, found: Headline) -> str:
    """Return what it is called to keep a share of what is learnt."""
    if kept < BROKEN_BELOW:
        return BROKEN
    return HARMED if kept < HARMED_BELOW - min(found.spread, _MOST_SPREAD) else STANDS


def spell(seconds: float) -> str:
    """Return a time in words."""
    for size, word in ((3600.0, "hour"), (60.0, "minute")):
        if seconds >= size:
            count = seconds / size
            return f"{count:.3g} {word}{'s' if count != 1 else ''}"
    return f"{seconds:.0f} s"
