"""Finds the runs that a comparison is made of, and says why the others are not in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from fedguard.errors import ConfigurationError
from fedguard.metrics.fairness import FIGURES
from fedguard.records.reader import Run, mapping, number, read_run
from fedguard.reporting.headline import Headline

RATES = (
    "attack_success_rate",
    "true_positive_rate",
    "false_positive_rate",
    "seconds_per_round",
)
"""Figures that are compared beside the headline."""


@dataclass(frozen=True)
class Entry:
    """A finished run.

    Attributes
    ----------
    run : Run
        Its files; clients are read when they are needed.
    config : mapping
        Its resolved configuration.
    """

    run: Run
    config: Mapping[str, Any]

    @property
    def seed(self) -> Any:
        """Seed of the run."""
        return self.config.get("seed", self.run.summary.get("seed"))

    @cached_property
    def headline(self) -> Headline:
        """What the run is led by."""
        return Headline.of(self.run.summary)

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """The figures that are compared: of the last round, or means over rounds."""
        found = mapping(self.run.summary.get("detection"))
        sources: dict[str, Any] = {**self.run.final, **found}
        sources["seconds_per_round"] = self.run.summary.get("seconds_per_round")
        rates = {name: number(sources.get(name)) for name in RATES}
        told = {name: number(sources.get(name)) for name in FIGURES}
        rates |= {name: value for name, value in told.items() if value is not None}
        return {self.headline.name: reached(self.run, self.headline), **rates}


@dataclass(frozen=True)
class Missing:
    """A run that cannot be compared, and why."""

    directory: str
    why: str


def reached(run: Run, headline: Headline) -> float | None:
    """Return a finished run's headline, None for a run without a result.

    Records hold no infinities: a perplexity that is missing at the end of a finished run, whose
    model was destroyed, counts as the worst possible.
    """
    if not run.summary or not run.final:
        return None
    value = headline.of_run(run.final)
    if value is None and not headline.higher_is_better:
        return headline.worst_possible
    return value


def find_runs(paths: Iterable[Path]) -> tuple[list[Entry], list[Missing]]:
    """Return the finished runs in run directories and campaign folders, and the others.

    Raises
    ------
    ConfigurationError
        If a path holds no run, or no run is finished.
    """
    entries: dict[Path, Entry] = {}
    missing: dict[Path, Missing] = {}
    for path in paths:
        for directory, planned in _run_directories(path):
            found = _entry(directory, planned)
            if isinstance(found, Entry):
                entries[directory.resolve()] = found
            else:
                missing[directory.resolve()] = found
    if not entries:
        reasons = "; ".join(f"{one.directory}: {one.why}" for one in list(missing.values())[:3])
        raise ConfigurationError("RUNS", reasons or "nothing", "at least one finished run")
    return list(entries.values()), list(missing.values())


def _run_directories(path: Path) -> list[tuple[Path, bool]]:
    """Return the run directories at a path, and whether a campaign only planned them."""
    if (path / "config.yaml").is_file() or (path / "summary.json").is_file():
        return [(path, False)]
    planned = {path / name for name in _planned(path)}
    found = {
        file.parent for name in ("config.yaml", "error.json") for file in path.glob(f"*/{name}")
    }
    if not planned and not found:
        raise ConfigurationError("RUNS", str(path), "a run directory or a campaign's folder")
    return [(directory, directory not in found) for directory in sorted(planned | found)]


def _planned(path: Path) -> list[str]:
    try:
        record = json.loads((path / "campaign.json").read_text(encoding="utf-8"))
        return [Path(str(run["directory"])).name for run in record["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _entry(directory: Path, planned: bool) -> Entry | Missing:
    run = read_run(directory, clients=False)
    if reached(run, Headline.of(run.summary)) is not None:
        config = _config(run)
        if not config:
            return Missing(directory.name, "its config.yaml cannot be read")
        return Entry(run, config)
    if planned:
        return Missing(directory.name, "not started")
    try:
        error = json.loads((directory / "error.json").read_text(encoding="utf-8"))
        return Missing(directory.name, f"failed: {error['error']}")
    except (OSError, ValueError, KeyError, TypeError):
        last = run.rounds[-1]["round"] if run.rounds else 0
        return Missing(directory.name, f"unfinished: {last} rounds recorded")


def _config(run: Run) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return mapping(yaml.load(run.config, Loader=loader))
    except (yaml.YAMLError, RecursionError):
        return {}
