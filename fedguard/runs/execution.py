"""`Execution`: the rounds of one run, recorded and checkpointed as they end."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid
from safetensors.torch import save

from fedguard.assembly.capacity import check_disk
from fedguard.config import LENGTH
from fedguard.errors import RunError
from fedguard.records import writer as files
from fedguard.records.checkpoints import CheckpointStore
from fedguard.records.provenance import model_sha256, versions
from fedguard.records.writer import Recorder, read_jsonl, write_atomically
from fedguard.runs import engines
from fedguard.runs.course import Course, Ended, check_length
from fedguard.runs.tally import check_hopeful, check_usable
from fedguard.runs.world import RoundListener, World


class Execution:
    """One execution of a world's rounds, from the first or the next one to the summary.

    1. Open the run directory; take the newest checkpoint where the run is resumed.
    2. Write the configuration and the threat model.
    3. Let the engine serve the rounds; after each, append its records, save a checkpoint, and keep
       the model if it is the best so far; end where the patience ends.
    4. Write the model and the summary.

    Parameters
    ----------
    world : World
        What the run consists of.
    out : Path
        Run directory.
    resume : bool
        Go on from the newest checkpoint in `out`, if there is one.
    on_round : callable
        Called with each round's record.
    grid : Grid, optional
        Where clients run, in place of the configured engine; its node ids are client ids.
    """

    def __init__(
        self,
        world: World,
        out: Path,
        resume: bool,
        on_round: RoundListener,
        grid: Grid | None,
    ) -> None:
        self.world, self.config = world, world.config
        self.out, self.on_round, self.grid = out, on_round, grid
        self.recorder = Recorder(out)
        self.store = CheckpointStore(out / "checkpoint", self.config.digest(but=LENGTH))
        self.checkpoint = self.store.newest() if resume else None
        if self.checkpoint is not None:
            check_length(world, out, self.checkpoint.server_round)
        self.course = Course(world.judge, self.config.patience, out)
        self.seconds_before = self.checkpoint.seconds if self.checkpoint else 0.0
        self.started = self.round_started = time.monotonic()

    @property
    def rounds_done(self) -> int:
        """Rounds that an earlier execution finished."""
        return self.checkpoint.server_round if self.checkpoint else 0

    def execute(self) -> dict[str, Any]:
        """Run what is left of the rounds; see `Simulation.run`."""
        check_disk(self.out, self.world.size)
        try:
            self._prepare_files()
            self.world.open(self.out, self.checkpoint)
            self.recorder.write_json(files.THREAT_MODEL, self.world.threat_model())
            self._catch_up()
            if self.rounds_done < self.config.rounds and not self.course.stalled:
                self.round_started = time.monotonic()
                # Another summary is to be written: until then, the run is not done.
                (self.out / files.SUMMARY).unlink(missing_ok=True)
                engines.serve(self.world, self.grid, self._record)
            self._write_model()
            self.world.finish()
            summary = self._summary()
            # A run in which nobody could be heard has no summary: it is not done.
            check_usable(summary)
            self.recorder.write_json(files.SUMMARY, summary)
        except OSError as error:
            raise self._unwritable(error) from error
        return summary

    def _unwritable(self, error: OSError) -> RunError:
        """Return what to say where a file cannot be written: what went wrong, what is left."""
        reason = error.strerror or str(error) or type(error).__name__
        where = error.filename or self.out
        return RunError(
            f"{where}: {' '.join(reason.split())}; put that right, and --resume with the same "
            f"--out goes on after the last checkpoint in {self.store.directory}"
        )

    def _prepare_files(self) -> None:
        if self.checkpoint is None:
            for name in files.WRITTEN_BY_ROUNDS:
                (self.out / name).unlink(missing_ok=True)
            shutil.rmtree(self.store.directory, ignore_errors=True)
        else:
            self.recorder.truncate_after(self.rounds_done)
        self.recorder.write_config(self.config.resolved())

    def _catch_up(self) -> None:
        """Let the course know of the rounds of an earlier execution."""
        if self.checkpoint is not None and self.world.judge is not None:
            records = read_jsonl(self.out / files.ROUNDS)
            self.course.catch_up(records, self.world.tensors())

    def _record(
        self, current: int, figures: Mapping[str, Any], clients: list[dict[str, Any]]
    ) -> None:
        """Write down a round, checkpoint it and tell who listens."""
        now = time.monotonic()
        record = {"round": current, **figures, "seconds": round(now - self.round_started, 4)}
        self.round_started = now
        self.recorder.append(files.CLIENTS, clients)
        self.recorder.append(files.ROUNDS, [record])
        if current:
            found = self.world.state(current, self.seconds_before + now - self.started)
            if found is not None:
                self.store.save(found)
        if self.course.add(record):
            self.course.keep(self.world.tensors())
        self.on_round(record)
        if current == 1:
            check_hopeful(record, self.config)
        if self.course.stalled and current < self.config.rounds:
            raise Ended

    def _write_model(self) -> None:
        tensors = self.world.tensors()
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write_atomically(self.out / files.MODEL, save(plain))

    def _summary(self) -> dict[str, Any]:
        """Return the summary of a finished run from its records."""
        config, task = self.config, self.world.task
        rounds = read_jsonl(self.out / files.ROUNDS)
        trained = [record for record in rounds if record["round"] > 0]
        better = max if task.higher_is_better else min
        told = [r for r in trained if isinstance(r.get(task.headline), int | float)]
        best = better(told, key=lambda r: r[task.headline]) if told else trained[-1]
        own = self.world.summary(trained, self.out / files.CLIENTS)
        seconds = self.seconds_before + time.monotonic() - self.started
        return {
            "strategy": config.strategy.name,
            "dataset": config.dataset.name,
            "clients": config.clients,
            "rounds": config.rounds,
            "seed": config.seed,
            "engine": "inprocess" if config.engine == "auto" else config.engine,
            "headline": task.told,
            "final": trained[-1],
            "best": {"round": best["round"], task.headline: best[task.headline]},
            "detection": {
                name: _mean(record.get(name) for record in trained)
                for name in ("true_positive_rate", "false_positive_rate")
            },
            "seconds": round(seconds, 3),
            "seconds_per_round": round(sum(r["seconds"] for r in trained) / len(trained), 4),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "model_sha256": model_sha256(self.out),
            "config_digest": config.digest(),
            "class_names": list(self.world.dataset.class_names),
            "versions": versions(),
            "out": str(self.out),
            **self.course.summary(trained, task.headline, config.rounds),
            **own,
        }


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
