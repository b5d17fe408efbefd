"""Runs side by side: which belong together, means over seeds, worst cases, tests, front."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedguard.config import PLACE
from fedguard.errors import ConfigurationError
from fedguard.metrics.significance import (
    Agreement,
    PairedTest,
    agreement,
    paired_tests,
    pareto_front,
)
from fedguard.records.reader import Run, mapping, number, read_run, sequence

WORLD = ("dataset", "rounds")
"""Fields in which runs must agree to be compared at all."""
DEFENCE = ("strategy", "pre", "assumed_malicious")
"""Fields that make up a defence; all others but the seed make up what it faces."""
IRRELEVANT = ("seed", "engine", "device", *PLACE)
"""Fields in which runs of one group may differ."""
METRICS = (
    "accuracy",
    "attack_success_rate",
    "true_positive_rate",
    "false_positive_rate",
    "seconds_per_round",
)


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
    def metrics(self) -> dict[str, float | None]:
        """The figures that are compared: of the last round, or means over rounds."""
        found = mapping(self.run.summary.get("detection"))
        sources: dict[str, Any] = {**self.run.final, **found}
        sources["seconds_per_round"] = self.run.summary.get("seconds_per_round")
        return {name: number(sources.get(name)) for name in METRICS}


@dataclass(frozen=True)
class Missing:
    """A run that cannot be compared, and why."""

    directory: str
    why: str


# --- finding runs ----------------------------------------------------------------------------


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
    if run.summary and run.final and number(run.final.get("accuracy")) is not None:
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


# --- names -----------------------------------------------------------------------------------


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration under dotted names: ``partition.alpha``; a part's own name as is."""
    found: dict[str, Any] = {}
    for field, value in config.items():
        if isinstance(value, Mapping) and "name" in value:
            found[field] = value["name"]
            found.update({f"{field}.{k}": v for k, v in value.items() if k != "name"})
        else:
            found[field] = value
    return found


def _frozen(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _labels(configs: Sequence[Mapping[str, Any]], heads: Sequence[str], lead: str) -> list[str]:
    """Return a label for each configuration: the part `lead`'s name and what tells them apart.

    Of the other fields under `heads` only those are named in which configurations with the same
    lead differ.
    """
    rows = [
        {k: v for k, v in flat(config).items() if k.partition(".")[0] in heads}
        for config in configs
    ]
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row.get(lead)].append(row)
    labels = []
    for row in rows:
        alike = groups[row.get(lead)]
        own = [k for k in row if k.startswith(f"{lead}.") and _varies(alike, k)]
        others = [k for k in row if k != lead and not k.startswith(f"{lead}.") and _varies(rows, k)]
        words = [str(row.get(lead) or "-")]
        words += [f"{k.rpartition('.')[2]}={_short(row[k])}" for k in (*own, *others)]
        labels.append(" ".join(words))
    return labels


def _varies(rows: Sequence[Mapping[str, Any]], field: str) -> bool:
    return len({_frozen(row.get(field)) for row in rows}) > 1


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- comparing -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: count, mean, standard deviation (None of one), lowest, highest."""

    n: int
    mean: float
    std: float | None
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of the known values, or None where none is known."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        std = statistics.stdev(known) if len(known) > 1 else None
        return cls(len(known), statistics.fmean(known), std, min(known), max(known))


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone: one defence in one scenario."""

    defence: str
    scenario: str
    entries: list[Entry]

    def spread(self, metric: str) -> Spread | None:
        """Return a figure over the seeds."""
        return Spread.of(entry.metrics[metric] for entry in self.entries)

    def mean(self, metric: str) -> float | None:
        """Return a figure's mean over the seeds."""
        found = self.spread(metric)
        return None if found is None else found.mean


@dataclass(frozen=True)
class Standing:
    """How one defence did over all that it faced.

    Attributes
    ----------
    defence : str
        Its label.
    scenarios : int
        Scenarios that it faced.
    complete : bool
        Whether it faced every scenario of the comparison; otherwise its worst case is no rival
        to the others'.
    accuracy : float
        Mean over scenarios of the means over seeds.
    worst_accuracy, worst_scenario : float, str
        Lowest mean over seeds, and where.
    worst_run : float
        Lowest accuracy of a single run.
    worst_success : float or None
        Highest mean attack success; None without a backdoor.
    caught, wronged : float or None
        Means of the shares of malicious and honest updates rejected.
    seconds : float or None
        Mean seconds per round.
    mean_rank : float or None
        Over blocks in which every complete defence has a run; 1 is best.
    front : bool or None
        Whether no other defence beats it in worst accuracy, worst attack success and seconds per
        round together; None if it is not complete.
    """

    defence: str
    scenarios: int
    complete: bool
    accuracy: float
    worst_accuracy: float
    worst_scenario: str
    worst_run: float
    worst_success: float | None
    caught: float | None
    wronged: float | None
    seconds: float | None
    mean_rank: float | None
    front: bool | None


class Comparison:
    """Runs of one data set and one number of rounds.

    Parameters
    ----------
    entries : sequence of Entry
        At least one.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = list(entries)
        configs = [entry.config for entry in entries]
        fields = {field for config in configs for field in config}
        facing = sorted(fields - set(DEFENCE) - set(IRRELEVANT) - set(WORLD), key=_scenario_order)
        self.defence_of = dict(
            zip(map(id, entries), _labels(configs, DEFENCE, "strategy"), strict=True)
        )
        scenarios = _labels(configs, facing, "attack")
        self.scenario_of = dict(zip(map(id, entries), scenarios, strict=True))

    @property
    def title(self) -> str:
        """The world that the runs share."""
        config = self.entries[0].config
        dataset = mapping(config.get("dataset")).get("name", config.get("dataset"))
        return f"{dataset}, {config.get('rounds')} rounds"

    @cached_property
    def defences(self) -> list[str]:
        """Labels of the defences, in the order of the runs."""
        return list(dict.fromkeys(self.defence_of[id(entry)] for entry in self.entries))

    @cached_property
    def scenarios(self) -> list[str]:
        """Labels of what they face, in the order of the runs."""
        return list(dict.fromkeys(self.scenario_of[id(entry)] for entry in self.entries))

    @cached_property
    def seeds(self) -> list[Any]:
        """Seeds of the runs."""
        return sorted({entry.seed for entry in self.entries}, key=str)

    @cached_property
    def groups(self) -> dict[tuple[str, str], Group]:
        """Runs by (defence, scenario); of two runs with the same seed, the later one given."""
        found: dict[tuple[str, str], dict[Any, Entry]] = defaultdict(dict)
        for entry in self.entries:
            key = self.defence_of[id(entry)], self.scenario_of[id(entry)]
            found[key][entry.seed] = entry
        return {
            key: Group(*key, [seeds[seed] for seed in sorted(seeds, key=str)])
            for key, seeds in found.items()
        }

    def of_defence(self, defence: str) -> list[Group]:
        """Return a defence's groups in the order of scenarios."""
        keys = [(defence, scenario) for scenario in self.scenarios]
        return [self.groups[key] for key in keys if key in self.groups]

    def accuracies(self, defence: str) -> dict[tuple[str, Any], float]:
        """Return a defence's final accuracy by (scenario, seed)."""
        return {
            (group.scenario, entry.seed): value
            for group in self.of_defence(defence)
            for entry in group.entries
            if (value := entry.metrics["accuracy"]) is not None
        }

    @cached_property
    def complete(self) -> list[str]:
        """Defences that faced every scenario."""
        return [d for d in self.defences if len(self.of_defence(d)) == len(self.scenarios)]

    @cached_property
    def tests(self) -> list[tuple[str, str, PairedTest]]:
        """Paired tests of every two defences over the (scenario, seed) pairs they share."""
        couples = list(itertools.combinations(self.defences, 2))
        by_defence = {defence: self.accuracies(defence) for defence in self.defences}
        differences = []
        for first, second in couples:
            one, two = by_defence[first], by_defence[second]
            differences.append([one[key] - two[key] for key in one if key in two])
        results = paired_tests(differences) if couples else []
        return [(a, b, test) for (a, b), test in zip(couples, results, strict=True)]

    @cached_property
    def ranking(self) -> Agreement:
        """Agreement of the (scenario, seed) blocks on the ranking of complete defences."""
        by_defence = [self.accuracies(defence) for defence in self.complete]
        blocks = [
            key
            for key in (by_defence[0] if by_defence else {})
            if all(key in values for values in by_defence)
        ]
        rows = [[values[key] for values in by_defence] for key in blocks]
        return agreement(np.array(rows).reshape(len(blocks), len(by_defence)))

    @cached_property
    def standings(self) -> list[Standing]:
        """How each defence did, best worst case first; incomplete ones last."""
        bare = [self._standing(defence) for defence in self.defences]
        front = dict(zip(self.complete, self._front(bare), strict=True))
        ranks = dict(zip(self.complete, self.ranking.mean_ranks, strict=False))
        full = [
            Standing(
                **{**vars(s), "mean_rank": ranks.get(s.defence), "front": front.get(s.defence)}
            )
            for s in bare
        ]
        return sorted(full, key=lambda s: (not s.complete, -s.worst_accuracy))

    def _standing(self, defence: str) -> Standing:
        groups = self.of_defence(defence)
        means = {group.scenario: group.mean("accuracy") or 0.0 for group in groups}
        worst = min(means, key=lambda scenario: means[scenario])

        def mean(metric: str) -> float | None:
            found = Spread.of(group.mean(metric) for group in groups)
            return None if found is None else found.mean

        success = Spread.of(group.mean("attack_success_rate") for group in groups)
        return Standing(
            defence=defence,
            scenarios=len(groups),
            complete=defence in self.complete,
            accuracy=statistics.fmean(means.values()),
            worst_accuracy=means[worst],
            worst_scenario=worst,
            worst_run=min(self.accuracies(defence).values(), default=0.0),
            worst_success=None if success is None else success.high,
            caught=mean("true_positive_rate"),
            wronged=mean("false_positive_rate"),
            seconds=mean("seconds_per_round"),
            mean_rank=None,
            front=None,
        )

    def _front(self, standings: Sequence[Standing]) -> list[bool]:
        rows = [
            [-s.worst_accuracy, s.worst_success or 0.0, s.seconds or 0.0]
            for s in standings
            if s.complete
        ]
        return pareto_front(np.array(rows).reshape(len(rows), 3))

    def value(self, field: str, entry: Entry) -> Any:
        """Return a dotted field of a run's configuration."""
        return flat(entry.config).get(field)

    def varying(self, field: str) -> list[Any]:
        """Return the values of a dotted field over the runs, in order; empty if it never varies."""
        values = [self.value(field, entry) for entry in self.entries]
        different = {_frozen(value): value for value in values}
        if len(different) < 2:
            return []
        return sorted(
            different.values(),
            key=lambda v: (
                not isinstance(v, int | float),
                v if isinstance(v, int | float) else 0,
                str(v),
            ),
        )


def _scenario_order(field: str) -> tuple[int, str]:
    first = ("attack", "malicious", "partition", "attack_knowledge")
    return (first.index(field) if field in first else len(first), field)


def compare(entries: Sequence[Entry]) -> list[Comparison]:
    """Return one comparison for each data set and number of rounds, the largest first."""
    worlds: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        worlds[_frozen([entry.config.get(field) for field in WORLD])].append(entry)
    found = [Comparison(members) for members in worlds.values()]
    return sorted(found, key=lambda comparison: -len(comparison.entries))


def class_count(entry: Entry) -> int:
    """Return the number of classes of a run's data set; 0 where it is not told."""
    return len(sequence(entry.run.summary.get("class_names")))
