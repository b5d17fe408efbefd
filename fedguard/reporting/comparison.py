"""Runs side by side: which belong together, means over seeds, worst cases, tests, front."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fedguard.config import PLACE
from fedguard.metrics.fairness import FIGURES
from fedguard.metrics.significance import (
    Agreement,
    PairedTest,
    agreement,
    paired_tests,
    pareto_front,
)
from fedguard.records.reader import mapping, sequence
from fedguard.reporting.comparison_runs import RATES, Entry
from fedguard.reporting.comparison_runs import Missing as Missing
from fedguard.reporting.comparison_runs import find_runs as find_runs
from fedguard.reporting.headline import Headline

WORLD = ("dataset", "rounds")
"""Fields in which runs must agree to be compared at all."""
DEFENCE = ("strategy", "pre", "assumed_malicious")
"""Fields that make up a defence; all others but the seed make up what it faces."""
IRRELEVANT = ("seed", "engine", "device", *PLACE)
"""Fields in which runs of one group may differ."""


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
    """A figure over seeds: count, mean, standard deviation (None of one or of inf), low, high."""

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
        several = len(known) > 1 and all(map(math.isfinite, known))
        std = statistics.stdev(known) if several else None
        return cls(len(known), statistics.mean(known), std, min(known), max(known))


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone: one defence in one scenario."""

    defence: str
    scenario: str
    entries: list[Entry]

    def spread(self, metric: str) -> Spread | None:
        """Return a figure over the seeds."""
        return Spread.of(entry.metrics.get(metric) for entry in self.entries)

    def mean(self, metric: str) -> float | None:
        """Return a figure's mean over the seeds."""
        found = self.spread(metric)
        return None if found is None else found.mean

    @property
    def headline(self) -> Headline:
        """What its runs are led by."""
        return self.entries[0].headline


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
    mean : float
        The headline's mean over scenarios of the means over seeds.
    worst, worst_scenario : float, str
        Worst mean over seeds, and where.
    worst_run : float
        Worst headline of a single run.
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
    mean: float
    worst: float
    worst_scenario: str
    worst_run: float
    worst_success: float | None
    caught: float | None
    wronged: float | None
    seconds: float | None
    mean_rank: float | None
    front: bool | None

    @property
    def accuracy(self) -> float:
        """The mean, by its name where the headline is accuracy."""
        return self.mean

    @property
    def worst_accuracy(self) -> float:
        """The worst case, by its name where the headline is accuracy."""
        return self.worst


class Comparison:
    """Runs of one data set, one number of rounds and one headline.

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
        title = f"{dataset}, {config.get('rounds')} rounds"
        lead = self.headline
        if lead.name == "accuracy":
            return title
        return f"{title}, {lead.words} ({'higher' if lead.higher_is_better else 'lower'} is better)"

    @property
    def headline(self) -> Headline:
        """What the runs are led by."""
        return self.entries[0].headline

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the figures that are compared, the headline first."""
        told = {name for entry in self.entries for name in entry.metrics}
        return (self.headline.name, *RATES, *(name for name in FIGURES if name in told))

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

    def reached(self, defence: str) -> dict[tuple[str, Any], float]:
        """Return a defence's final headline by (scenario, seed)."""
        return {
            (group.scenario, entry.seed): value
            for group in self.of_defence(defence)
            for entry in group.entries
            if (value := entry.metrics[self.headline.name]) is not None
        }

    @cached_property
    def complete(self) -> list[str]:
        """Defences that faced every scenario."""
        return [d for d in self.defences if len(self.of_defence(d)) == len(self.scenarios)]

    @cached_property
    def tests(self) -> list[tuple[str, str, PairedTest]]:
        """Paired tests of every two defences over the (scenario, seed) pairs they share."""
        couples = list(itertools.combinations(self.defences, 2))
        by_defence = {defence: self.reached(defence) for defence in self.defences}
        differences = []
        for first, second in couples:
            one, two = by_defence[first], by_defence[second]
            differences.append([_difference(one[key], two[key]) for key in one if key in two])
        results = paired_tests(differences) if couples else []
        return [(a, b, test) for (a, b), test in zip(couples, results, strict=True)]

    @cached_property
    def ranking(self) -> Agreement:
        """Agreement of the (scenario, seed) blocks on the ranking of complete defences."""
        by_defence = [self.reached(defence) for defence in self.complete]
        blocks = [
            key
            for key in (by_defence[0] if by_defence else {})
            if all(key in values for values in by_defence)
        ]
        rows = [[self.headline.gain(values[key]) for values in by_defence] for key in blocks]
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
        return sorted(full, key=lambda s: (not s.complete, -self.headline.gain(s.worst)))

    def _standing(self, defence: str) -> Standing:
        groups, lead = self.of_defence(defence), self.headline
        known = {group.scenario: group.mean(lead.name) for group in groups}
        means = {name: lead.worst_possible if m is None else m for name, m in known.items()}
        worst = min(means, key=lambda scenario: lead.gain(means[scenario]))

        def mean(metric: str) -> float | None:
            found = Spread.of(group.mean(metric) for group in groups)
            return None if found is None else found.mean

        success = Spread.of(group.mean("attack_success_rate") for group in groups)
        return Standing(
            defence=defence,
            scenarios=len(groups),
            complete=defence in self.complete,
            mean=statistics.mean(means.values()),
            worst=means[worst],
            worst_scenario=worst,
            worst_run=lead.worst(self.reached(defence).values() or [lead.worst_possible]),
            worst_success=None if success is None else success.high,
            caught=mean("true_positive_rate"),
            wronged=mean("false_positive_rate"),
            seconds=mean("seconds_per_round"),
            mean_rank=None,
            front=None,
        )

    def _front(self, standings: Sequence[Standing]) -> list[bool]:
        rows = [
            [-self.headline.gain(s.worst), s.worst_success or 0.0, s.seconds or 0.0]
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


def _difference(first: float, second: float) -> float:
    """Return first minus second; two runs that are equally lost do not differ."""
    return 0.0 if first == second else first - second


def _scenario_order(field: str) -> tuple[int, str]:
    first = ("attack", "malicious", "partition", "attack_knowledge")
    return (first.index(field) if field in first else len(first), field)


def compare(entries: Sequence[Entry]) -> list[Comparison]:
    """Return one comparison for each data set, number of rounds and headline, the largest first."""
    worlds: dict[tuple[str, Headline], list[Entry]] = defaultdict(list)
    for entry in entries:
        world = _frozen([entry.config.get(field) for field in WORLD])
        worlds[world, entry.headline].append(entry)
    found = [Comparison(members) for members in worlds.values()]
    return sorted(found, key=lambda comparison: -len(comparison.entries))


def class_count(entry: Entry) -> int:
    """Return the number of classes of a run's data set; 0 where it is not told."""
    return len(sequence(entry.run.summary.get("class_names")))
