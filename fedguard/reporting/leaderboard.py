"""The leaderboard's figures: how each defence did over a battery, league by league."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedguard.records.reader import mapping, number

LEAGUES: dict[str, str] = {
    "none": "No server data",
    "unlabelled": "Unlabelled server data",
    "labelled": "Labelled server data",
}
"""What the server lends a defence; each is ranked by itself."""


@dataclass(frozen=True)
class Played:
    """One run of a defence on the battery.

    Attributes
    ----------
    defence, league, by : str
        The defence, what the server lends it, and whose it is.
    scenario : str
        What it faced, seed aside.
    clean : bool
        Whether nobody attacked.
    seed : int
        Its seed.
    summary : mapping or None
        Content of ``summary.json``; None of a run that failed.
    config : str
        YAML that repeats the run.
    error : str
        Why it failed.
    """

    defence: str
    league: str
    by: str
    scenario: str
    clean: bool
    seed: int
    summary: Mapping[str, Any] | None
    config: str
    error: str = ""

    @property
    def score(self) -> float:
        """Share of the test examples that the attacker did not get, in [0, 1].

        Accuracy, and under a backdoor the smaller of accuracy and the share of triggered examples
        that do not end in the target class; 0 of a run that failed.
        """
        final = mapping((self.summary or {}).get("final"))
        accuracy, success = number(final.get("accuracy")), number(final.get("attack_success_rate"))
        if accuracy is None:
            return 0.0
        return accuracy if success is None else min(accuracy, 1.0 - success)


@dataclass(frozen=True)
class Cell:
    """A defence in one scenario: mean and deviation over seeds, and what repeats it."""

    scenario: str
    clean: bool
    mean: float
    std: float | None
    config: str
    seeds: tuple[int, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A defence's line.

    Attributes
    ----------
    worst, worst_scenario : float, str
        Lowest mean over seeds among the attacked scenarios, and where.
    mean, spread : float, float or None
        Mean over the attacked scenarios, and the mean of their deviations over seeds.
    clean_cost : float or None
        Mean over the clean scenarios of the reference's score less its own; None without one.
    wronged, seconds, memory : float or None
        Means of the shares of honest updates rejected and of the seconds of a round; the largest
        peak of memory in bytes.
    failed : int
        Runs that failed; each counts as a score of 0.
    """

    defence: str
    league: str
    by: str
    worst: float
    worst_scenario: str
    mean: float
    spread: float | None
    clean_cost: float | None
    wronged: float | None
    seconds: float | None
    memory: float | None
    failed: int
    cells: tuple[Cell, ...] = field(default=())


def standings(played: Sequence[Played], reference: str) -> dict[str, list[Row]]:
    """Return the rows of each league that has any, best worst case first.

    Parameters
    ----------
    played : sequence of Played
        All runs.
    reference : str
        Name of the defence that clean cost is counted from; it may be in any league.
    """
    by_defence: dict[str, list[Played]] = {}
    for one in played:
        by_defence.setdefault(one.defence, []).append(one)
    found = {name: _cells(runs) for name, runs in by_defence.items()}
    base = {cell.scenario: cell.mean for cell in found.get(reference, ()) if cell.clean}
    rows = [_row(by_defence[name], cells, base) for name, cells in found.items()]
    ranked = sorted(rows, key=lambda row: (-row.worst, -row.mean, row.defence))
    return {
        league: mine for league in LEAGUES if (mine := [r for r in ranked if r.league == league])
    }


def _cells(runs: Sequence[Played]) -> tuple[Cell, ...]:
    by_scenario: dict[str, list[Played]] = {}
    for one in runs:
        by_scenario.setdefault(one.scenario, []).append(one)
    return tuple(_cell(name, group) for name, group in by_scenario.items())


def _cell(name: str, group: Sequence[Played]) -> Cell:
    scores = [one.score for one in group]
    return Cell(
        scenario=name,
        clean=group[0].clean,
        mean=statistics.fmean(scores),
        std=statistics.stdev(scores) if len(scores) > 1 else None,
        config=group[0].config,
        seeds=tuple(one.seed for one in group),
        errors=tuple(one.error for one in group if one.error),
    )


def _row(runs: Sequence[Played], cells: tuple[Cell, ...], base: Mapping[str, float]) -> Row:
    attacked = [cell for cell in cells if not cell.clean] or list(cells)
    worst = min(attacked, key=lambda cell: cell.mean)
    costs = [base[c.scenario] - c.mean for c in cells if c.clean and c.scenario in base]
    summaries = [one.summary for one in runs if one.summary is not None]
    wronged = (mapping(s.get("detection")).get("false_positive_rate") for s in summaries)
    peaks = [number(s.get("peak_memory_bytes")) for s in summaries]
    return Row(
        defence=runs[0].defence,
        league=runs[0].league,
        by=runs[0].by,
        worst=worst.mean,
        worst_scenario=worst.scenario,
        mean=statistics.fmean(cell.mean for cell in attacked),
        spread=_mean(cell.std for cell in attacked),
        clean_cost=_mean(costs),
        wronged=_mean(wronged),
        seconds=_mean(s.get("seconds_per_round") for s in summaries),
        memory=max((peak for peak in peaks if peak is not None), default=None),
        failed=sum(bool(one.error) for one in runs),
        cells=cells,
    )


def _mean(values: Iterable[Any]) -> float | None:
    known = [v for value in values if (v := number(value)) is not None and math.isfinite(v)]
    return statistics.fmean(known) if known else None
