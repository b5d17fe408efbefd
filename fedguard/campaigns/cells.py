"""One run of a campaign in its directory: locked, resumed, never done twice, its error recorded."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedguard.config import SimulationConfig, parse
from fedguard.errors import ConfigurationError, RunError
from fedguard.records import writer as files
from fedguard.records.writer import jsonable, write_atomically

ERROR = "error.json"
LOCK = ".lock"

State = Literal["done", "failed", "started", "waiting"]


def state_of(directory: Path, digest: str) -> State:
    """Return how far a run is: ``done`` only with a summary of the same configuration."""
    if finished_summary(directory, digest) is not None:
        return "done"
    if (directory / ERROR).exists():
        return "failed"
    return "started" if (directory / files.CONFIG).exists() else "waiting"


def finished_summary(directory: Path, digest: str) -> dict[str, Any] | None:
    """Return the summary of a finished run with this digest, or None.

    Raises
    ------
    RunError
        If the directory holds a finished run of another configuration.
    """
    try:
        summary = json.loads((directory / files.SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(summary, dict) or "config_digest" not in summary:
        return None
    if summary["config_digest"] != digest:
        raise RunError(f"{directory} holds a run of another configuration; nothing is overwritten")
    return summary


@contextlib.contextmanager
def run_lock(directory: Path) -> Iterator[bool]:
    """Hold a run directory; yields whether it could be had.

    The kernel lets go of the lock when its process ends, however it ends.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


@dataclass(frozen=True)
class CellResult:
    """What became of one run.

    Attributes
    ----------
    state : str
        ``done``, ``failed``, or ``busy``: another process holds the run.
    accuracy : float or None
        The headline of the last round: accuracy, perplexity, ...
    rounds : int
        Rounds of the finished run.
    seconds : float
        Time spent on it here.
    error : str
        One line, where it failed.
    headline : dict or None
        What the figure is, as in ``summary.json``.
    """

    state: Literal["done", "failed", "busy"]
    accuracy: float | None = None
    rounds: int = 0
    seconds: float = 0.0
    error: str = ""
    headline: dict[str, Any] | None = None


def _forget_peak() -> None:
    """Let the process's peak of memory start anew, so that a run tells its own; on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def run_cell(
    values: Mapping[str, Any],
    directory: Path,
    *,
    threads: int = 1,
    track: tuple[str, ...] = (),
) -> CellResult:
    """Run one configuration to its end, or go on with it where it was interrupted.

    An error is recorded in the directory's ``error.json`` and told in the result.

    Parameters
    ----------
    values : mapping
        Configuration.
    directory : Path
        Run directory.
    threads : int
        Threads of PyTorch; results are the same for the same number.
    track : tuple of str
        Experiment trackers; see `fedguard.reporting.tracking`.
    """
    started = time.monotonic()
    _forget_peak()
    with run_lock(directory) as held:
        if not held:
            return CellResult("busy")
        try:
            config = parse(values)
            summary = finished_summary(directory, config.digest())
            if summary is None:
                summary = _run(config, directory, threads, track)
        except Exception as error:  # the campaign goes on without this run
            seconds = time.monotonic() - started
            record_error(directory, error, seconds)
            return CellResult("failed", seconds=seconds, error=one_line(error))
    headline = summary.get("headline")
    figure = summary["final"].get(headline["name"] if headline else "accuracy")
    seconds = time.monotonic() - started
    return CellResult("done", figure, summary["rounds"], seconds, headline=headline)


def _run(
    config: SimulationConfig, directory: Path, threads: int, track: tuple[str, ...]
) -> dict[str, Any]:
    try:
        return _finish(config, directory, threads, track)
    finally:
        # Tensors in reference cycles would wait for Python's collector, which cannot see their
        # size.
        gc.collect()


def _finish(
    config: SimulationConfig, directory: Path, threads: int, track: tuple[str, ...]
) -> dict[str, Any]:
    from fedguard.reporting.tracking import Tracking
    from fedguard.runs.simulation import Simulation

    (directory / ERROR).unlink(missing_ok=True)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with _torch_threads(threads), Tracking(track, config, directory) as tracking:
        run = Simulation(config).run
        summary = run(directory, resume=True, on_round=tracking.on_round)
        tracking.finish(summary)
    return summary


@contextlib.contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def record_error(directory: Path, error: BaseException, seconds: float) -> None:
    """Write ``error.json`` into a run directory; a full disk must not stop the campaign."""
    record = {
        "error": one_line(error),
        "type": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
        "seconds": round(seconds, 3),
        "process": os.getpid(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    text = json.dumps(jsonable(record), indent=2, ensure_ascii=False)
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / ERROR, text.encode() + b"\n")


def read_error(directory: Path) -> str:
    """Return the recorded error of a run in one line, or an empty string."""
    try:
        record = json.loads((directory / ERROR).read_text(encoding="utf-8"))
        return str(record["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, its kind in front unless it speaks to users."""
    message = " ".join(str(error).split())[:300]
    if isinstance(error, ConfigurationError | RunError) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


TIMES = ("seconds", "seconds_per_round", "peak_memory_bytes", "out", "report")
"""What may differ between two executions of the same run."""


def without_times(value: Any) -> Any:
    """Return a record without what may differ between two executions of the same run."""
    if isinstance(value, Mapping):
        return {k: without_times(item) for k, item in value.items() if k not in TIMES}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value


def comparable_bytes(directory: Path) -> dict[str, bytes]:
    """Return a run directory's result files with times taken out; equal runs give equal bytes.

    `model.safetensors`, `clients.jsonl`, `config.yaml` and `threat_model.json` are returned as
    they are.
    """
    found = {
        name: (directory / name).read_bytes()
        for name in (files.MODEL, files.CLIENTS, files.CONFIG, files.THREAT_MODEL)
    }
    readers: dict[str, Callable[[str], Any]] = {
        files.SUMMARY: json.loads,
        files.ROUNDS: lambda text: [json.loads(line) for line in text.splitlines()],
    }
    for name, read in readers.items():
        values = without_times(read((directory / name).read_text(encoding="utf-8")))
        found[name] = json.dumps(values, sort_keys=True, ensure_ascii=False).encode()
    return found
