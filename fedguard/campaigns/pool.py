"""Runs of a campaign, packed over the machine: in this process, or in several that Ray places."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedguard.campaigns.campaign import Cell
from fedguard.campaigns.cells import CellResult, record_error, run_cell
from fedguard.campaigns.plan import Plan
from fedguard.campaigns.progress import SweepProgress
from fedguard.errors import RunError

BUSY_SECONDS = 1.0
"""Pause before a run that another process holds is asked for again."""

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
            address="local",
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
