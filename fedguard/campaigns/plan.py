"""What a campaign will do: its cells checked, what its folder has and lacks, how long it takes."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fedguard.campaigns.campaign import Campaign, Cell, in_cell
from fedguard.campaigns.cells import State, finished_summary, run_cell, state_of
from fedguard.config import SimulationConfig
from fedguard.errors import ConfigurationError
from fedguard.records.writer import jsonable, write_atomically

CAMPAIGN_YAML = "campaign.yaml"
CAMPAIGN_JSON = "campaign.json"


# --- checking --------------------------------------------------------------------------------


def check_cells(cells: Sequence[Cell]) -> None:
    """Build the parts of every configuration, so that what does not fit is found before round 1.

    Data sets are loaded and divided once for all cells that share them; seeds do not matter.

    Raises
    ------
    ConfigurationError
        For the first configuration whose parts do not fit; names the cell.
    """
    from fedguard.assembly import make as assembly
    from fedguard.assembly.strategy import make_strategy
    from fedguard.attacks.toolkit.schedule import parse_schedule
    from fedguard.models.device import resolve_device
    from fedguard.models.flat import FlatModel

    datasets: dict[str, Any] = {}
    federations: dict[str, Any] = {}
    seen: set[str] = set()
    for cell in cells:
        config = cell.config
        if (key := _key(config, without=("seed",))) in seen:
            continue
        seen.add(key)
        try:
            parse_schedule(config.attack_rounds)
            resolve_device(config.device)
            key = _key(config, only=("dataset", "data_dir"))
            if key not in datasets:
                datasets[key] = assembly.load_dataset(config)
            dataset = datasets[key]
            attack = assembly.make_attack(config, dataset)
            shared = ("dataset", "data_dir", "partition", "clients", "malicious", "server_samples")
            if (key := _key(config, only=shared)) not in federations:
                cpu = resolve_device("cpu")
                federations[key] = assembly.make_federation(config, dataset, attack, cpu)
            model = FlatModel(assembly.make_server_model(config, dataset))
            make_strategy(config, dataset, federations[key], model)
        except ConfigurationError as error:
            raise in_cell(error, cell.label) from error


def _key(config: SimulationConfig, *, only: Sequence[str] = (), without: Sequence[str] = ()) -> str:
    values = config.resolved()
    kept = only or [name for name in values if name not in without]
    return json.dumps({name: values[name] for name in kept}, sort_keys=True, default=str)


# --- plan ------------------------------------------------------------------------------------


@dataclass
class Plan:
    """What a campaign's folder has and lacks.

    Attributes
    ----------
    folder : Path
        The campaign's folder.
    states : list of (Cell, str)
        Every cell and how far its run is.
    """

    folder: Path
    states: list[tuple[Cell, State]] = field(default_factory=list)

    @classmethod
    def of(cls, cells: Iterable[Cell], folder: Path) -> Plan:
        """Look at the folder."""
        return cls(
            folder, [(cell, state_of(folder / cell.directory, cell.digest)) for cell in cells]
        )

    def to_do(self, retry_failed: bool) -> list[Cell]:
        """Return the cells that are left to run."""
        left = ("waiting", "started", *(("failed",) if retry_failed else ()))
        return [cell for cell, state in self.states if state in left]

    def failed(self) -> list[Cell]:
        """Return the cells whose run failed."""
        return [cell for cell, state in self.states if state == "failed"]

    def pace(self) -> Pace:
        """Return what finished runs say about time."""
        pace = Pace()
        for cell, state in self.states:
            if state == "done":
                summary = finished_summary(self.folder / cell.directory, cell.digest) or {}
                pace.add(cell, float(summary.get("seconds", 0.0)), cell.config.rounds)
        return pace


class Pace:
    """Seconds per round by strategy, from runs that have ended."""

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = defaultdict(list)

    def __len__(self) -> int:
        return sum(map(len, self._seen.values()))

    def add(self, cell: Cell, seconds: float, rounds: int) -> None:
        """Take note of a run's time."""
        self._seen[cell.config.strategy.name].append(seconds / max(rounds, 1))

    def estimate(self, cells: Iterable[Cell]) -> float | None:
        """Return the seconds that runs will take one after another; None if nothing is known.

        A strategy that has not been seen is taken for the mean of the others.
        """
        if not len(self):
            return None
        every = [value for values in self._seen.values() for value in values]
        mean = sum(every) / len(every)
        total = 0.0
        for cell in cells:
            own = self._seen.get(cell.config.strategy.name)
            total += cell.config.rounds * (sum(own) / len(own) if own else mean)
        return total


def probe(cells: Sequence[Cell]) -> Pace:
    """Run one round of one configuration per strategy in a temporary folder; return the pace."""
    pace = Pace()
    firsts = {cell.config.strategy.name: cell for cell in reversed(cells)}
    for cell in firsts.values():
        values = {**cell.config.model_dump(mode="json"), "rounds": 1}
        with tempfile.TemporaryDirectory(prefix="fedguard-probe-") as folder:
            result = run_cell(values, Path(folder) / "run")
        if result.state == "done":
            pace.add(cell, result.seconds, 1)
    return pace


# --- the folder's record ---------------------------------------------------------------------


def write_record(campaign: Campaign, cells: Sequence[Cell], folder: Path) -> None:
    """Write ``campaign.yaml`` and ``campaign.json``; earlier grids of the folder are kept in it."""
    folder.mkdir(parents=True, exist_ok=True)
    earlier: list[Any] = []
    try:
        before = json.loads((folder / CAMPAIGN_JSON).read_text(encoding="utf-8"))
        earlier = list(before["earlier"])
        if before["campaign"] != json.loads(json.dumps(campaign.plain(), default=str)):
            earlier.append(before["campaign"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    record = {
        "campaign": campaign.plain(),
        "runs": [
            {"directory": c.directory, "digest": c.digest, "choices": dict(c.choices)}
            for c in cells
        ],
        "earlier": earlier,
    }
    text = json.dumps(jsonable(record), indent=2, ensure_ascii=False, default=str)
    write_atomically(folder / CAMPAIGN_JSON, text.encode() + b"\n")
    plain = yaml.safe_dump(campaign.plain(), sort_keys=False, allow_unicode=True)
    write_atomically(folder / CAMPAIGN_YAML, plain.encode())


def plan_record(
    plan: Plan, pace: Pace, workers: int, retry_failed: bool, probed: bool
) -> dict[str, Any]:
    """Return a plan as plain values."""
    to_do = plan.to_do(retry_failed)
    serial = pace.estimate(to_do)
    origin = "one round of each strategy" if probed else f"{len(pace)} finished runs"
    return {
        "folder": str(plan.folder),
        "runs": len(plan.states),
        "states": dict(Counter(state for _, state in plan.states)),
        "to_do": len(to_do),
        "rounds_to_do": sum(cell.config.rounds for cell in to_do),
        "workers": workers,
        "estimated_seconds": None if serial is None else serial / max(workers, 1),
        "estimated_from": origin if len(pace) else None,
    }
