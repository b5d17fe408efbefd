"""Small vertical runs for the tests of the vertical room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedguard.config import SimulationConfig, parse
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def config(**values: Any) -> SimulationConfig:
    """Return a configuration of a short run on digits strips."""
    return parse({"strategy": "opus-vfl", "rounds": 3, "device": "cpu", **values})


def run(out: Path, **values: Any) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """Return summary, rounds and party records of a run."""
    summary = Simulation(config(**values)).run(out)
    return summary, read_jsonl(out / "rounds.jsonl"), read_jsonl(out / "clients.jsonl")


def needs(folder: str) -> Path:
    """Return a folder of real data, or skip."""
    path = DATA / folder
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path
