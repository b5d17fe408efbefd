"""Runs that stop between rounds or are killed, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedguard.config import parse
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

SMALL = {
    "clients": 6,
    "malicious": 0.0,
    "attack": "none",
    "strategy": "fedavg",
    "rounds": 4,
    "local_epochs": 1,
    "partition": "iid",
    "server_samples": 40,
}


class StopError(Exception):
    """Stands for a crash between two rounds."""


def run(out: Path, **values: Any) -> dict[str, Any]:
    """Run a small federation; return its summary."""
    return Simulation(parse({**SMALL, **values})).run(out)


def cut(out: Path, after: int = 2, **values: Any) -> None:
    """Run and stop after a round."""

    def stop(record: dict[str, Any]) -> None:
        if record["round"] == after:
            raise StopError

    with pytest.raises(StopError):
        Simulation(parse({**SMALL, **values})).run(out, on_round=stop)


def resume(out: Path, **values: Any) -> dict[str, Any]:
    """Go on with a run; return its summary."""
    return Simulation(parse({**SMALL, **values})).run(out, resume=True)


def kill(out: Path, arguments: list[str], wait_for: str) -> None:
    """Start the command, and kill it once a checkpoint is there."""
    command = [sys.executable, "-m", "fedguard.simulate", *arguments, "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list((out / "checkpoint").glob(wait_for)):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "summary.json").exists()


def lines(path: Path) -> list[dict[str, Any]]:
    """Return a file's records without the time they took."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in read_jsonl(path)]
