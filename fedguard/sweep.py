"""``fedguard sweep CAMPAIGN.yaml``: every run of a grid, packed over the machine, once."""

from __future__ import annotations

import importlib
import json
import logging
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from fedguard.campaign import Campaign, Cell, in_cell, read_campaign
from fedguard.cells import (
    CellResult,
    State,
    finished_summary,
    read_error,
    record_error,
    run_cell,
    state_of,
)
from fedguard.config import SimulationConfig, read_setting
from fedguard.errors import ConfigurationError, RunError
from fedguard.reporting.recorder import jsonable, write_atomically
from fedguard.reporting.sweep_progress import SweepProgress
from fedguard.reporting.wording import duration

CAMPAIGN_YAML = "campaign.yaml"
CAMPAIGN_JSON = "campaign.json"
BUSY_SECONDS = 1.0
"""Pause before a run that another process holds is asked for again."""

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


# --- checking --------------------------------------------------------------------------------


def check_cells(cells: Sequence[Cell]) -> None:
    """Build the parts of every configuration, so that what does not fit is found before round 1.

    Data sets are loaded and divided once for all cells that share them; seeds do not matter.

    Raises
    ------
    ConfigurationError
        For the first configuration whose parts do not fit; names the cell.
    """
    from fedguard import assembly
    from fedguard.attacks.schedule import parse_schedule
    from fedguard.clients.training import FlatModel

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
            assembly.resolve_device(config.device)
            key = _key(config, only=("dataset", "data_dir"))
            if key not in datasets:
                datasets[key] = assembly.load_dataset(config)
            dataset = datasets[key]
            attack = assembly.make_attack(config, dataset)
            shared = ("dataset", "data_dir", "partition", "clients", "malicious", "server_samples")
            if (key := _key(config, only=shared)) not in federations:
                cpu = assembly.resolve_device("cpu")
                federations[key] = assembly.make_federation(config, dataset, attack, cpu)
            model = FlatModel(assembly.make_model(config, dataset))
            assembly.make_strategy(config, dataset, federations[key], model)
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


# --- running ---------------------------------------------------------------------------------

Finished = tuple[Cell, CellResult]


def run_here(
    cells: Sequence[Cell], folder: Path, threads: int, track: tuple[str, ...]
) -> Iterator[Finished]:
    """Run cells one after another in this process."""
    for cell in cells:
        values = cell.config.model_dump(mode="json")
        yield cell, run_cell(values, folder / cell.directory, threads=threads, track=track)


def run_on_ray(
    cells: Sequence[Cell], folder: Path, workers: int, threads: int, track: tuple[str, ...]
) -> Iterator[Finished]:
    """Run cells in `workers` processes that Ray places on CPUs and GPUs, as they become free."""
    pool = _RayPool(workers, [cell.config.device for cell in cells])
    try:
        yield from pool.run(cells, folder.absolute(), threads, track)
    finally:
        pool.close()


class _RayPool:
    """Worker processes, each used for one run after another."""

    def __init__(self, workers: int, devices: Sequence[str]) -> None:
        ray: Any = importlib.import_module("ray")

        # A run that names its GPU must see all of them; otherwise Ray shares them out.
        named = any(":" in device for device in devices)
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        self._ray = ray
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            _system_config={"automatic_object_spilling_enabled": False},
        )
        gpus = float(ray.cluster_resources().get("GPU", 0))
        wanted = gpus > 0 and not named and any(device != "cpu" for device in devices)
        share = _gpu_share(gpus, workers) if wanted else 0.0
        self._worker = ray.remote(num_cpus=1, num_gpus=share, max_restarts=0)(_Worker)
        self._idle = [self._worker.remote() for _ in range(workers)]

    def run(
        self, cells: Sequence[Cell], folder: Path, threads: int, track: tuple[str, ...]
    ) -> Iterator[Finished]:
        """Yield each cell with its result, as they end."""
        waiting = list(reversed(cells))
        running: dict[Any, tuple[Cell, Any]] = {}
        while waiting or running:
            while waiting and self._idle:
                cell, worker = waiting.pop(), self._idle.pop()
                values, out = cell.config.model_dump(mode="json"), str(folder / cell.directory)
                running[worker.run.remote(values, out, threads, track)] = (cell, worker)
            ready, _ = self._ray.wait(list(running), num_returns=1)
            for reference in ready:
                cell, worker = running.pop(reference)
                yield cell, self._result(reference, worker, folder / cell.directory)

    def _result(self, reference: Any, worker: Any, directory: Path) -> CellResult:
        """Return a run's result; one whose process died is a failed run."""
        try:
            result: CellResult = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            died = RunError(f"the run's process died ({type(error).__name__}); out of memory?")
            record_error(directory, died, 0.0)
            self._idle.append(self._worker.remote())
            return CellResult("failed", error=str(died))
        self._idle.append(worker)
        return result

    def close(self) -> None:
        """End every process."""
        self._ray.shutdown()


def _gpu_share(gpus: float, workers: int) -> float:
    """Return the share of a GPU for each worker, so that all workers find a place."""
    per_gpu = -(-workers // max(int(gpus), 1))
    return int(10_000 / per_gpu) / 10_000


class _Worker:
    """What a worker process does: runs, one after another."""

    def run(
        self, values: Mapping[str, Any], out: str, threads: int, track: tuple[str, ...]
    ) -> CellResult:
        """Run one cell."""
        return run_cell(values, Path(out), threads=threads, track=track)


@dataclass
class Sweep:
    """The execution of a campaign's plan.

    Attributes
    ----------
    plan : Plan
        What is there.
    workers : int
        Processes; 0 and 1 run everything in this one.
    threads : int
        PyTorch's threads per run. Part of what results may depend on, so it is not derived from
        the number of workers.
    track : tuple of str
        Experiment trackers.
    """

    plan: Plan
    workers: int = 1
    threads: int = 1
    track: tuple[str, ...] = ()

    def execute(self, cells: Sequence[Cell], progress: SweepProgress) -> dict[str, CellResult]:
        """Run cells until each has ended, here or in another process; results by digest."""
        results: dict[str, CellResult] = {}
        left = list(cells)
        while left:
            busy = []
            for cell, result in self._run(left):
                if result.state == "busy":
                    busy.append(cell)
                    continue
                results[cell.digest] = result
                progress.ended(cell, result)
            if busy:
                progress.waiting(len(busy))
                time.sleep(BUSY_SECONDS)
            left = busy
        return results

    def _run(self, cells: Sequence[Cell]) -> Iterator[Finished]:
        workers = min(self.workers, len(cells))
        if workers <= 1:
            return run_here(cells, self.plan.folder, self.threads, self.track)
        return run_on_ray(cells, self.plan.folder, workers, self.threads, self.track)


# --- the command -----------------------------------------------------------------------------


@app.command()
def sweep(
    campaign: Annotated[Path, typer.Argument(help="Campaign file, YAML.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The campaign's folder; runs/NAME if left out.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Runs at a time; 0 or 1: in this process. All cores if left out."),
    ] = None,
    threads: Annotated[int, typer.Option(help="PyTorch threads of each run.")] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a field of base: rounds=5.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what failed before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its estimated cost, then stop.")
    ] = False,
    probing: Annotated[
        bool, typer.Option("--probe", help="Estimate from one round of each strategy.")
    ] = False,
    track: Annotated[
        list[str] | None, typer.Option(help="tensorboard, mlflow or wandb; may be repeated.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end.")
    ] = False,
) -> None:
    """Run every combination of a campaign file's lists, each once.

    The same command goes on after Ctrl-C, a crash or a power cut: finished runs are kept, the
    others go on from their last finished round. A run that fails is recorded in its directory's
    error.json and does not stop the rest; --retry-failed runs it again.

    Exit codes: 0 all runs are done, 1 some failed, 2 the campaign is not valid.
    """
    from rich.console import Console

    from fedguard.reporting.tracking import check_trackers

    console = Console(stderr=True)
    trackers = check_trackers(track or ())
    given = read_campaign(campaign, dict(map(read_setting, settings or [])))
    cells = given.cells()
    folder = out if out is not None else Path("runs") / given.name
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError("out", str(folder), "a folder")
    for name, value in (("--workers", workers), ("--threads", threads)):
        if value is not None and value < (name == "--threads"):
            raise ConfigurationError(name, value, "a whole number, not negative; threads from 1")
    check_cells(cells)
    plan = Plan.of(cells, folder)
    count = _default_workers() if workers is None else workers
    if dry_run:
        pace = probe(cells) if probing else plan.pace()
        _print_plan(plan, pace, count, retry_failed, probing, as_json)
        return
    write_record(given, cells, folder)
    to_do = plan.to_do(retry_failed)
    with SweepProgress(len(cells), plan.pace(), to_do, count, console) as progress:
        Sweep(plan, count, threads, trackers).execute(to_do, progress)
    raise typer.Exit(_conclude(Plan.of(cells, folder), console, as_json))


def _default_workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _print_plan(
    plan: Plan, pace: Pace, workers: int, retry_failed: bool, probed: bool, as_json: bool
) -> None:
    record = plan_record(plan, pace, workers, retry_failed, probed)
    if as_json:
        print(json.dumps(record))
        return
    for cell, state in plan.states:
        print(f"{state:8} {cell.directory}  {cell.label}")
    states = ", ".join(f"{count} {state}" for state, count in record["states"].items())
    print(f"{record['runs']} runs in {plan.folder}: {states}; {record['to_do']} to do")
    seconds = record["estimated_seconds"]
    if seconds is None:
        print("cost: unknown before the first finished run; --probe tries a round per strategy")
    else:
        print(
            f"cost: about {duration(seconds)} with {workers} workers, "
            f"judged by {record['estimated_from']}"
        )


def _conclude(plan: Plan, console: Any, as_json: bool) -> int:
    """Say how the campaign stands; return the exit code."""
    failed = plan.failed()
    done = sum(state == "done" for _, state in plan.states)
    for cell in failed:
        error = read_error(plan.folder / cell.directory)
        console.print(f"failed: {cell.directory}: {error}", markup=False, soft_wrap=True)
    again = "; --retry-failed runs them again" if failed else ""
    console.print(
        f"{done} of {len(plan.states)} runs done, {len(failed)} failed{again}\n"
        f"fedguard compare {plan.folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if as_json:
        record = {"folder": str(plan.folder), "runs": len(plan.states), "done": done}
        print(json.dumps({**record, "failed": [cell.directory for cell in failed]}))
    return 1 if failed or done < len(plan.states) else 0
