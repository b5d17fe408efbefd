"""`Campaign`: a grid of runs in one file, each run identified by what it resolves to.

A campaign file in YAML::

    name: digits-grid
    base: {dataset: digits, rounds: 20}       # fields of a run, or the path of a run's YAML file
    grid:
      strategy: [fedavg, krum, {name: geminiguard, max_clusters: 6}]
      attack: [alie, {name: min-max, direction: unit}]
      malicious: [0.1, 0.3]
      partition.alpha: [0.1, 1.0]             # an argument of a part
    exclude:
      - {strategy: krum, malicious: 0.3}
    seeds: 3                                  # 0, 1, 2; or a list
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedguard.config import SimulationConfig, assign, load_yaml, parse
from fedguard.config.parts import PARTS
from fedguard.errors import ConfigurationError, nearest

FIELDS = ("name", "base", "grid", "exclude", "seeds")
MAX_CELLS = 100_000
"""Most runs of one campaign."""
MAX_SEED_COUNT = 10_000


@dataclass(frozen=True)
class Cell:
    """One run of a campaign.

    Attributes
    ----------
    choices : mapping
        What the grid chose for it: field, or ``part.argument``, to value; and ``seed``.
    config : SimulationConfig
        The run.
    """

    choices: Mapping[str, Any]
    config: SimulationConfig

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the resolved configuration: the identity of the run."""
        return self.config.digest()

    @property
    def label(self) -> str:
        """What the grid chose, in one line."""
        return " ".join(f"{field}={spell(value)}" for field, value in self.choices.items())

    @property
    def directory(self) -> str:
        """Name of its run directory: readable in front, unique through the digest."""
        config = self.config
        words = f"{config.strategy.name}-{config.attack.name}-s{config.seed}"
        return f"{re.sub(r'[^A-Za-z0-9-]+', '_', words)[:60]}-{self.digest[:12]}"


def spell(value: Any) -> str:
    """Return a grid's value in few characters: a part's name, with its arguments in brackets."""
    if not isinstance(value, Mapping):
        return str(value)
    arguments = ",".join(f"{k}={spell(v)}" for k, v in value.items() if k != "name")
    name = str(value.get("name", ""))
    return f"{name}({arguments})" if arguments else name


@dataclass(frozen=True)
class Campaign:
    """A grid of runs.

    Attributes
    ----------
    name : str
        Letters, digits, ``-``, ``_`` and ``.``; the campaign's folder is named by it.
    base : mapping
        Fields that all runs share.
    grid : mapping of str to sequence
        Field, or ``part.argument``, to the values that it takes in turn.
    exclude : sequence of mapping
        Combinations to leave out; a run is left out if it has every value of one entry.
    seeds : sequence of int
        Seeds of every configuration.
    """

    name: str
    base: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]
    exclude: Sequence[Mapping[str, Any]]
    seeds: Sequence[int]

    def plain(self) -> dict[str, Any]:
        """Return the campaign as plain values; reading them again gives the same campaign."""
        return {
            "name": self.name,
            "base": dict(self.base),
            "grid": {field: list(values) for field, values in self.grid.items()},
            "exclude": [dict(entry) for entry in self.exclude],
            "seeds": list(self.seeds),
        }

    def cells(self) -> list[Cell]:
        """Return the runs, in the order of the grid; equal configurations count once.

        Raises
        ------
        ConfigurationError
            For the first configuration that is not valid; names the cell.
        """
        found: dict[str, Cell] = {}
        matched = [False] * len(self.exclude)
        for choices in self._choices():
            cell = self._cell(choices)
            hits = [_matches(entry, cell.config) for entry in self.exclude]
            matched = [before or hit for before, hit in zip(matched, hits, strict=True)]
            if not any(hits):
                found.setdefault(cell.digest, cell)
        for entry, used in zip(self.exclude, matched, strict=True):
            if not used:
                raise ConfigurationError("exclude", dict(entry), "values that some run has")
        if not found:
            raise ConfigurationError("exclude", list(self.exclude), "entries that leave a run")
        return list(found.values())

    def _choices(self) -> Iterator[dict[str, Any]]:
        # An argument of a part comes after the part itself, whatever the order in the file.
        for values in itertools.product(*self.grid.values()):
            chosen = dict(zip(self.grid, values, strict=True))
            for seed in self.seeds:
                yield {**chosen, "seed": seed}

    def _cell(self, choices: Mapping[str, Any]) -> Cell:
        values = dict(self.base)
        label = " ".join(f"{field}={spell(value)}" for field, value in choices.items())
        try:
            for field in sorted(choices, key=lambda field: "." in field):
                assign(values, field, choices[field])
            return Cell(choices, parse(values))
        except ConfigurationError as error:
            raise in_cell(error, label) from error


def in_cell(error: ConfigurationError, label: str) -> ConfigurationError:
    """Return an error of one configuration with the cell's label in front."""
    return ConfigurationError(f"run [{label}]: {error.field}", error.value, error.allowed)


def _matches(entry: Mapping[str, Any], config: SimulationConfig) -> bool:
    resolved = config.resolved()
    return all(_has(resolved, field, wanted) for field, wanted in entry.items())


def _has(resolved: Mapping[str, Any], field: str, wanted: Any) -> bool:
    head, _, argument = field.partition(".")
    held = resolved.get(head)
    if argument:
        return isinstance(held, Mapping) and argument in held and held[argument] == wanted
    if isinstance(held, Mapping) and isinstance(wanted, str):
        return bool(held.get("name") == wanted)
    if isinstance(held, Mapping) and isinstance(wanted, Mapping):
        return all(held.get(name) == value for name, value in wanted.items())
    return bool(held == wanted)


# --- reading a campaign file -----------------------------------------------------------------


def read_campaign(path: Path, settings: Mapping[str, Any] | None = None) -> Campaign:
    """Return the campaign of a YAML file.

    Parameters
    ----------
    path : Path
        The file; a path in its `base` is taken from the file's folder.
    settings : mapping, optional
        Fields, or ``part.argument``, that replace what `base` says.

    Raises
    ------
    ConfigurationError
        If the file is no campaign; one line.
    """
    values = load_yaml(path)
    if isinstance(values.get("base"), str):
        values["base"] = load_yaml(path.parent / values["base"])
    campaign = parse_campaign({"name": path.stem, **values})
    base = dict(campaign.base)
    for field, value in (settings or {}).items():
        if field in campaign.grid or field == "seed":
            raise ConfigurationError("--set", field, "a field that the grid does not vary")
        assign(base, field, value)
    return Campaign(campaign.name, base, campaign.grid, campaign.exclude, campaign.seeds)


def parse_campaign(values: Mapping[str, Any]) -> Campaign:
    """Return the checked campaign of a plain mapping."""
    for field in values:
        if field not in FIELDS:
            raise ConfigurationError(
                field, values[field], f"{nearest(field, FIELDS)}the fields are {', '.join(FIELDS)}"
            )
    name = values.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ConfigurationError("name", name, "letters, digits, '-', '_' and '.', up to 100")
    base = values.get("base") or {}
    if not isinstance(base, Mapping):
        raise ConfigurationError("base", base, "a mapping of fields, or a path of a YAML file")
    grid = _grid(values.get("grid") or {})
    seeds = _seeds(values.get("seeds"), base)
    count = len(seeds)
    for choices in grid.values():
        count *= len(choices)
    if count > MAX_CELLS:
        raise ConfigurationError("grid", f"{count} runs", f"at most {MAX_CELLS} runs")
    return Campaign(name, dict(base), grid, _exclude(values.get("exclude") or []), seeds)


def _grid(values: Any) -> dict[str, list[Any]]:
    if not isinstance(values, Mapping):
        raise ConfigurationError("grid", values, "a mapping of fields to lists")
    for field, choices in values.items():
        if field == "seed":
            raise ConfigurationError("grid.seed", choices, "seeds: [0, 1, 2], beside the grid")
        if not isinstance(choices, list) or not choices:
            raise ConfigurationError(f"grid.{field}", choices, "a list of at least one value")
    return {str(field): list(choices) for field, choices in values.items()}


def _exclude(entries: Any) -> list[dict[str, Any]]:
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) and e for e in entries):
        raise ConfigurationError("exclude", entries, "a list of mappings of fields to values")
    known = set(SimulationConfig.model_fields)
    for entry in entries:
        for field in entry:
            head, dot, _ = str(field).partition(".")
            if head not in known or (dot and head not in PARTS):
                raise ConfigurationError("exclude", field, f"{nearest(head, known)}a run's field")
    return [{str(field): value for field, value in entry.items()} for entry in entries]


def _seeds(value: Any, base: Mapping[str, Any]) -> list[int]:
    if value is None:
        return [base.get("seed", 0)]
    if "seed" in base:
        raise ConfigurationError("base.seed", base["seed"], "either base.seed or seeds")
    allowed = f"a number of seeds, 1 to {MAX_SEED_COUNT}, or a list of different seeds"
    if isinstance(value, bool):
        raise ConfigurationError("seeds", value, allowed)
    if isinstance(value, int):
        if not 1 <= value <= MAX_SEED_COUNT:
            raise ConfigurationError("seeds", value, allowed)
        return list(range(value))
    whole = isinstance(value, list) and all(type(seed) is int for seed in value)
    if not whole or not value or len(set(value)) != len(value):
        raise ConfigurationError("seeds", value, allowed)
    return list(value)
