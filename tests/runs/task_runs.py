"""What the runs of several tasks are tested by: going on after a stop, and engines that agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fedguard.config import SimulationConfig
from fedguard.records.provenance import model_sha256
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

Configured = Callable[..., SimulationConfig]


def run(
    config: Configured, out: Path, **values: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run a configuration; return its summary and its rounds."""
    summary = Simulation(config(**values)).run(out)
    return summary, read_jsonl(out / "rounds.jsonl")


def check_going_on(config: Configured, folder: Path, **values: Any) -> None:
    """Check that a run that is stopped after its first round ends with the same model."""

    class StoppedError(Exception):
        pass

    def stop(record: dict[str, Any]) -> None:
        if record["round"] == 1:
            raise StoppedError

    given = {"faults": {"dropout": 0.3}, **values}
    run(config, folder / "whole", **given)
    with pytest.raises(StoppedError):
        Simulation(config(**given)).run(folder / "cut", on_round=stop)
    Simulation(config(**given)).run(folder / "cut", resume=True)
    assert model_sha256(folder / "cut") == model_sha256(folder / "whole")


def check_engine(config: Configured, folder: Path, engine: str, within: float, **more: Any) -> None:
    """Check that an engine ends with the model of the one in this process."""
    values = {"executor": "reuse", "rounds": 2, **more}
    run(config, folder / "here", **values)
    run(config, folder / "there", engine=engine, workers=2, **values)
    here, there = (load_file(folder / name / "model.safetensors") for name in ("here", "there"))
    for name, value in here.items():
        assert float((value - there[name]).abs().max()) <= within, name
