"""What an audit tries and what it finds: rows, remedies, and the verdict that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from fedguard.auditing.cell import Cell
from fedguard.auditing.project import Project
from fedguard.auditing.verdict import BROKEN, HARMED, UNREACHED, Headline

FRACTIONS = (0.05, 0.1, 0.2, 0.4)
"""Shares of malicious clients that are tried."""

REFERENCE = 0.2
"""Share at which remedies are compared and an app is called standing."""

UNTRIED = "untried"
"""The verdict where nothing was tried, or nothing reached the app."""

NO_TIME = "no time was left for all of it"
"""Why a threat was not tried, or not with every share."""
ENOUGH = 0.8
"""Share that a remedy must keep, in peace and under attack, to be recommended."""


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

    @property
    def steps(self) -> int:
        """What it keeps in steps of a twentieth: less than that tells no rule from another."""
        return round(20.0 * min(self.worst, self.peace, 1.0))

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
        return max(good, key=lambda r: (r.steps, r.tried, r.peace), default=None)


def count_of(fraction: float, clients: int) -> int:
    """Return how many clients a share is: at least one, never all."""
    return min(max(1, math.floor(fraction * clients + 1e-9)), clients - 1)
