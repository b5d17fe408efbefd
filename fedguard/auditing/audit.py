"""`Audit`: peace, battle, remedies; what is found, as plain values."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedguard.auditing.cell import PEACE, Cell
from fedguard.auditing.nurses import Ward
from fedguard.auditing.project import Project
from fedguard.auditing.threats import BY_NAME, THREATS, Threat
from fedguard.auditing.verdict import (
    BROKEN,
    HARMED,
    UNREACHED,
    Headline,
    headline,
    judge,
    learns,
)
from fedguard.errors import RunError

FRACTIONS = (0.05, 0.1, 0.2, 0.4)
"""Shares of malicious clients that are tried."""

REFERENCE = 0.2
"""Share at which remedies are compared and an app is called standing."""

UNTRIED = "untried"
"""The verdict where nothing was tried, or nothing reached the app."""

NO_TIME = "no time was left for all of it"
"""Why a threat was not tried, or not with every share."""

RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("multi-krum", {"assumed_malicious": 0.3}),
    ("trimmed-mean", {"assumed_malicious": 0.3}),
    ("geometric-median", {}),
)
"""Remedies that are tried."""

BATTLE = 0.6
"""Share of the time after which remedies are tried, whatever is left of the battery."""

ENOUGH = 0.8
"""Share that a remedy must keep, in peace and under attack, to be recommended."""

_WORST = 5
"""Most threats against which every remedy is tried."""

_PATIENCE = 6.0
"""A cell may take this many times a peaceful run, and half a minute, before it counts as hung."""


@dataclass(frozen=True)
class Plan:
    """What an audit tries.

    Attributes
    ----------
    fractions : tuple of float
        Shares of malicious clients.
    seeds : int
        Runs of each cell.
    minutes : float
        Time for everything.
    workers : int
        Cells at a time.
    threats : tuple of str
        Names of threats; all of them if empty.
    metric : str or None
        The figure by which the app is judged.
    """

    fractions: tuple[float, ...] = FRACTIONS
    seeds: int = 1
    minutes: float = 10.0
    workers: int = 2
    threats: tuple[str, ...] = ()
    metric: str | None = None


@dataclass
class Row:
    """One cell with its verdict."""

    cell: Cell
    verdict: str
    kept: float
    reason: str

    def plain(self) -> dict[str, Any]:
        """Return the row as JSON holds it."""
        return {
            "threat": self.cell.threat,
            "malicious": self.cell.malicious,
            "seed": self.cell.seed,
            "rule": self.cell.rule,
            "arguments": dict(self.cell.arguments),
            "verdict": self.verdict,
            "kept": round(self.kept, 4),
            "reason": self.reason,
            "file": f"cells/{self.cell.name}.json",
        }


@dataclass
class Remedy:
    """A rule, what it costs in peace, and what is kept with it under the worst threat."""

    rule: str
    arguments: dict[str, Any]
    peace: float
    worst: float
    worst_threat: str
    tried: int

    @property
    def stands(self) -> bool:
        """Whether the app keeps enough with it to be worth pasting."""
        return min(self.worst, self.peace) >= ENOUGH

    def lines(self, app: str = "app") -> list[str]:
        """Return what to paste at the end of the server's file, where the app has that name."""
        given = "".join(f", {name}={value!r}" for name, value in self.arguments.items())
        return ["import fedguard", "", f'{app} = fedguard.guard("{self.rule}"{given})({app})']


@dataclass
class Found:
    """Everything that an audit found."""

    project: Project
    plan: Plan
    headline: Headline
    rows: list[Row] = field(default_factory=list)
    remedies: list[Remedy] = field(default_factory=list)
    untried: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def unguarded(self) -> list[Row]:
        """Return the rows of the app as it is."""
        return [row for row in self.rows if not row.cell.rule]

    def worst(self, fraction: float = REFERENCE) -> float | None:
        """Return the least that is kept by the app as it is, up to a share of the clients.

        None where nothing was tried with so many.
        """
        most = count_of(fraction, self.project.clients)
        rows = [r for r in self.unguarded() if r.cell.malicious <= most]
        return min((row.kept for row in rows if row.verdict != UNREACHED), default=None)

    @property
    def verdict(self) -> str:
        """``"broken"``, ``"harmed"``, ``"standing"`` or ``"untried"`` up to the reference share."""
        most = count_of(REFERENCE, self.project.clients)
        words = {row.verdict for row in self.unguarded() if row.cell.malicious <= most}
        if not words - {UNREACHED}:
            return UNTRIED
        return BROKEN if BROKEN in words else HARMED if HARMED in words else "standing"

    def paste(self) -> list[str]:
        """Return the lines of the recommended remedy; none where there is none."""
        best = self.recommended
        return best.lines(self.project.server.partition(":")[2]) if best is not None else []

    @property
    def recommended(self) -> Remedy | None:
        """The remedy to paste, where one is needed and stands."""
        if self.verdict not in (BROKEN, HARMED):
            return None
        good = [remedy for remedy in self.remedies if remedy.stands]
        return max(good, key=lambda r: (round(min(r.worst, r.peace), 2), r.peace), default=None)


def count_of(fraction: float, clients: int) -> int:
    """Return how many clients a share is: at least one, never all."""
    return min(max(1, math.floor(fraction * clients + 1e-9)), clients - 1)


class Audit:
    """Runs an app in peace, under the battery, and with remedies.

    1. Peace, under one seed more than asked for, since the app's own spread counts.
    2. Every threat, from the fewest clients on; one that breaks the app is not tried with more.
    3. A few rules against what harmed most, at a fifth of the clients.
    4. The best one against everything else, since what a rule lets pass may harm it alone.

    Parameters
    ----------
    project : Project
        The app.
    plan : Plan
        What is tried.
    folder : Path
        Where cells are kept; an audit with the same folder goes on.
    tell : callable
        Called with a line for each cell.
    """

    def __init__(
        self,
        project: Project,
        plan: Plan,
        folder: Path,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.project, self.plan, self.folder, self.tell = project, plan, folder, tell
        self.ward = Ward(project, folder, plan.workers, self._told)

    def _told(self, cell: Cell, outcome: Mapping[str, Any], known: bool) -> None:
        who = f"{cell.malicious} of {self.project.clients}" if cell.malicious else ""
        how = f"with {cell.rule}" if cell.rule else ""
        took = "kept" if known else f"{outcome['seconds']:.1f} s"
        words = " ".join(filter(None, [cell.threat, who, how]))
        self.tell(f"{words}: {outcome['ended']} ({took})")

    def run(self) -> Found:
        """Run everything that the time allows.

        Raises
        ------
        ConfigurationError
            If the app cannot be imported.
        RunError
            If it does not get through in peace, so that nothing could be said.
        """
        started = time.monotonic()
        end = started + 60.0 * self.plan.minutes
        try:
            found = self._peace(end)
            self._battle(found, started + BATTLE * (end - started))
            if found.verdict in (BROKEN, HARMED):
                self._remedies(found, end)
        finally:
            self.ward.close()
        found.seconds = time.monotonic() - started
        return found

    def _peace(self, end: float) -> Found:
        cells = [Cell(seed=seed) for seed in range(self.plan.seeds + 1)]
        outcomes = self.ward.run(cells, end)
        for cell in cells:
            outcome = outcomes.get(cell.name)
            if outcome is None:
                told = f"within {self.plan.minutes:g} minutes; give it more, or fewer rounds"
                raise RunError(f"the app does not get through in peace {told}")
            if outcome["ended"] != "finished":
                raise RunError(f"the app does not get through in peace: {outcome['reason']}")
            if not outcome["rounds"]:
                why = outcome["failures"] or ["its server asked no client to train"]
                raise RunError(f"the app trains nothing in peace: {why[0]}")
        peaceful = [outcomes[cell.name] for cell in cells]
        slowest = max(outcome["seconds"] for outcome in peaceful)
        self.ward.limit = 30.0 + _PATIENCE * slowest
        found = Found(self.project, self.plan, headline(peaceful, self.plan.metric))
        if not learns(found.headline):
            told = f"{found.headline.words} is {found.headline.peace:.3g} after training"
            before = f"{found.headline.untrained:.3g} before it"
            raise RunError(f"the app learns nothing in peace: {told} and {before}; give it rounds")
        if peaceful[0]["failures"]:
            self.tell(f"in peace a client answers with an error: {peaceful[0]['failures'][0]}")
        return found

    def _battle(self, found: Found, deadline: float) -> None:
        left = self._threats(found)
        tried: set[tuple[str, int]] = set()
        for fraction in sorted(self.plan.fractions):
            count = count_of(fraction, self.project.clients)
            now = [t for t in left if (t.name, count) not in tried]
            tried |= {(t.name, count) for t in now}
            seeds = range(self.plan.seeds)
            cells = [Cell(t.name, count, seed) for t in now for seed in seeds]
            outcomes = self.ward.run(cells, deadline)
            rows = [
                self._row(cell, outcomes[cell.name], found)
                for cell in cells
                if cell.name in outcomes
            ]
            found.rows += rows
            broken = {row.cell.threat for row in rows if row.verdict == BROKEN}
            left = [threat for threat in left if threat.name not in broken]
            missed = {cell.threat for cell in cells if cell.name not in outcomes}
            found.untried.update(dict.fromkeys(sorted(missed), NO_TIME))

    def _threats(self, found: Found) -> list[Threat]:
        wanted = [t for t in THREATS if not self.plan.threats or t.name in self.plan.threats]
        chosen = []
        averageable = self.ward.outcomes[Cell().name]["averageable"]
        for threat in wanted:
            if threat.kind == "data" and self.project.data is None:
                found.untried[threat.name] = "needs --data package.module:function"
            elif threat.attack and not averageable:
                found.untried[threat.name] = "the app's model is bytes, not numbers"
            else:
                chosen.append(threat)
        return chosen

    def _row(self, cell: Cell, outcome: dict[str, Any], found: Found) -> Row:
        peaceful = self.ward.outcomes.get(Cell(seed=cell.seed).name)
        if not found.headline.name:
            outcome = {**outcome, "distance": self._distance(cell)}
        if cell.threat == PEACE:
            outcome = {**outcome, "applied": 1}
        verdict, kept, reason = judge(outcome, found.headline, peaceful)
        triggered = _triggered(cell, outcome)
        if triggered is not None and triggered > 0.5:
            verdict, kept = BROKEN, min(kept, 1.0 - triggered)
            reason = f"{triggered:.0%} of triggered pictures are taken for the target; {reason}"
        return Row(cell, verdict, kept, reason)

    def _distance(self, cell: Cell) -> float | None:
        """Return how far a cell's final model is from the peaceful one of its seed."""
        paths = [self.ward.folder / "cells" / f"{c.name}.npy" for c in (cell, Cell(seed=cell.seed))]
        if not all(path.exists() for path in paths):
            return None
        one, other = (np.load(path, allow_pickle=False) for path in paths)
        gone = float(np.linalg.norm(one - other)) if one.shape == other.shape else math.nan
        return gone if math.isfinite(gone) else None

    def _remedies(self, found: Found, deadline: float) -> None:
        if not self.ward.outcomes[Cell().name]["averageable"]:
            found.untried["remedies"] = "the app's model is bytes; no rule averages those"
            return
        harmed = self._harmed(found)
        reached = (row.cell.threat for row in found.unguarded() if row.verdict != UNREACHED)
        others = [name for name in dict.fromkeys(reached) if name not in harmed]
        trials = [Remedy(rule, dict(arguments), 0.0, 0.0, "", 0) for rule, arguments in RULES]
        tried = [self._try(found, remedy, harmed[:_WORST], deadline) for remedy in trials]
        found.remedies = [remedy for remedy in tried if remedy.tried]
        best = found.recommended
        if best is not None:
            place = found.remedies.index(best)
            found.remedies[place] = self._try(found, best, [*harmed, *others], deadline)

    def _harmed(self, found: Found) -> list[str]:
        """Return the threats that harm up to the reference share, of each kind the worst first."""
        most = count_of(REFERENCE, self.project.clients)
        rows = [r for r in found.unguarded() if r.cell.malicious <= most]
        kept: dict[str, float] = {}
        for row in rows:
            if row.verdict in (BROKEN, HARMED):
                kept[row.cell.threat] = min(kept.get(row.cell.threat, 1.0), row.kept)
        worst = sorted(kept, key=lambda name: kept[name])
        # What is spoilt is set aside by every rule alike: one of that kind comes first, no more.
        crafted = [name for name in worst if BY_NAME[name].kind in ("crafted", "data")]
        rest = [name for name in worst if name not in crafted]
        return [*rest[:1], *crafted, *rest[1:]]

    def _try(self, found: Found, remedy: Remedy, threats: Sequence[str], deadline: float) -> Remedy:
        count = count_of(REFERENCE, self.project.clients)
        bare = Cell(seed=0, rule=remedy.rule, arguments=remedy.arguments)
        cells = [bare, *(replace(bare, threat=name, malicious=count) for name in threats)]
        outcomes = self.ward.run(cells, deadline)
        rows = [self._row(c, outcomes[c.name], found) for c in cells if c.name in outcomes]
        known = {row.cell.name for row in found.rows}
        found.rows += [row for row in rows if row.cell.name not in known]
        attacked = [row for row in rows if row.cell.threat != PEACE]
        if not attacked or rows[0].cell.threat != PEACE:
            return replace(remedy, tried=0)
        worst = min(attacked, key=lambda row: row.kept)
        return replace(
            remedy,
            peace=rows[0].kept,
            worst=worst.kept,
            worst_threat=worst.cell.threat,
            tried=len(attacked),
        )


def _triggered(cell: Cell, outcome: Mapping[str, Any]) -> float | None:
    """Return the share of triggered pictures that are taken for the target, where it is known."""
    if cell.threat != "backdoor":
        return None
    for name, value in outcome["metrics"].items():
        if name.startswith("triggered/") and "acc" in name.lower() and value is not None:
            return float(value)
    return None
