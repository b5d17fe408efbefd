"""`Audit`: peace, battle, remedies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedguard.auditing.cell import PEACE, Cell
from fedguard.auditing.found import NO_TIME, REFERENCE, Found, Plan, Remedy, Row, count_of
from fedguard.auditing.nurses import Ward
from fedguard.auditing.project import Project
from fedguard.auditing.threats import BY_NAME, THREATS, Threat
from fedguard.auditing.verdict import (
    BROKEN,
    HARMED,
    HELD_UP,
    UNREACHED,
    called,
    headline,
    judge,
    learns,
)
from fedguard.errors import RunError

RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("multi-krum", {"assumed_malicious": 0.3}),
    ("trimmed-mean", {"assumed_malicious": 0.3}),
    ("geometric-median", {}),
)
"""Remedies that are tried."""

BATTLE = 0.6
"""Share of the time after which remedies are tried, whatever is left of the battery."""

_WORST = 5
"""Most threats against which every remedy is tried."""

_PATIENCE = 6.0
"""A cell may take this many times a peaceful run, and half a minute, before it counts as hung."""


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
            rows = self._judged(cells, found, deadline)
            found.rows += rows
            broken = {row.cell.threat for row in rows if row.verdict == BROKEN}
            left = [threat for threat in left if threat.name not in broken]
            known = {row.cell.name for row in rows}
            missed = {cell.threat for cell in cells if cell.name not in known}
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

    def _judged(self, cells: Sequence[Cell], found: Found, deadline: float) -> list[Row]:
        """Run cells and judge them; what harms is run with one more seed, and the mean counts."""
        outcomes = self.ward.run(cells, deadline)
        rows = [self._row(c, outcomes[c.name], found) for c in cells if c.name in outcomes]
        again = {
            row.cell.name: replace(row.cell, seed=self.plan.seeds)
            for row in rows
            if row.verdict == HARMED
        }
        outcomes = self.ward.run(list({c.name: c for c in again.values()}.values()), deadline)
        for place, row in enumerate(rows):
            twin = again.get(row.cell.name)
            if twin is not None and twin.name in outcomes:
                rows[place] = _mean(row, self._row(twin, outcomes[twin.name], found), found)
        return rows

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
        everything = [*harmed, *others]
        for _ in RULES:  # who falls to the rest makes room for the next best
            best = found.recommended
            if best is None or best.tried >= len(everything) or time.monotonic() >= deadline:
                break
            place = found.remedies.index(best)
            found.remedies[place] = self._try(found, best, everything, deadline)

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
        rows = self._judged(cells, found, deadline)
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


def _mean(row: Row, other: Row, found: Found) -> Row:
    """Return a cell's row with what two seeds keep on average."""
    kept = (row.kept + other.kept) / 2.0
    verdict = called(kept, found.headline)
    if verdict not in (BROKEN, HARMED) and other.verdict == HELD_UP:
        verdict, reason = HELD_UP, other.reason
    else:
        reason = f"{row.reason}; another seed keeps {min(other.kept, 1.0):.0%}"
    return replace(row, verdict=verdict, kept=kept, reason=reason)


def _triggered(cell: Cell, outcome: Mapping[str, Any]) -> float | None:
    """Return the share of triggered pictures that are taken for the target, where it is known."""
    if cell.threat != "backdoor":
        return None
    for name, value in outcome["metrics"].items():
        if name.startswith("triggered/") and "acc" in name.lower() and value is not None:
            return float(value)
    return None
