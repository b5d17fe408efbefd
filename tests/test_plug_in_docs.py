"""The parts that docs/plug_in.md shows run as they stand, conform, and take at most 60 lines."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from fedguard import simulate
from fedguard.config import parse
from fedguard.grids.roll_call import RollCall
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.strategies import MultiKrum
from fedguard.testing import (
    check_attack,
    check_audit,
    check_repair,
    check_task,
    check_training,
)

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "plug_in.md").read_text(encoding="utf-8")
SHOWN = re.compile(r"Write\s+`(\w+)\.py`:[^`]*?```python\n(.*?)```\s+```bash\n(.*?)```", re.DOTALL)
SEAMS = TEXT[TEXT.index("## A task of your own") :]
PARTS = {name: (code, command.strip()) for name, code, command in SHOWN.findall(SEAMS)}


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Write the shown modules into the current folder; they are forgotten afterwards."""
    for name, (code, _) in PARTS.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module
    for name in PARTS:
        sys.modules.pop(name, None)


def test_the_lines_that_guard_an_app_do_so_as_they_stand():
    part = TEXT[TEXT.index("## Your strategy, our rule") :]
    lines = re.search(r"```python\n(.*?)```", part, re.DOTALL)[1]
    assert len(lines.strip().splitlines()) <= 3
    ran = []
    app = ServerApp()

    @app.main()
    def main(grid, context):
        ran.append(grid)

    names = {"app": app}
    exec(lines, names)
    names["app"](RollCall(3), Context(1, 0, {}, RecordDict(), {}))
    assert isinstance(ran[0].rule, MultiKrum)


def test_every_seam_is_shown_in_at_most_60_lines():
    assert set(PARTS) == {"ink", "heavy_ball", "dead_units"}
    for name, (code, _) in PARTS.items():
        assert len(code.splitlines()) <= 60, name


@pytest.mark.parametrize("name", sorted(PARTS))
def test_what_is_shown_runs_from_the_command(shown, tmp_path, name):
    arguments = shlex.split(PARTS[name][1])[3:]
    arguments = [word for word in arguments if word not in ("--rounds", "5")]
    assert simulate.main([*arguments, "--rounds", "3", "--out", str(tmp_path / "out")]) == 0
    rounds = read_jsonl(tmp_path / "out" / "rounds.jsonl")
    assert len(rounds) == 4
    if name == "ink":
        assert rounds[3]["error"] < 0.8 * rounds[0]["error"]
    if name == "dead_units":
        repaired = [r["round"] for r in read_jsonl(tmp_path / "out" / "repairs.jsonl")]
        assert repaired == [2, 3]
        assert all(0.0 <= record["dead"] <= 1.0 for record in rounds[1:])
        assert len(read_jsonl(tmp_path / "out" / "audits.jsonl")) == 4  # the first model too


def test_the_shown_task_conforms(shown):
    ink = shown("ink")
    data = ink.Ink().load(None)
    torch.manual_seed(0)
    module = ink.Line(data.input_shape, 1)
    assert len(check_task(ink.Amount, module, data.x_train[:50], data.y_train[:50]).passed) == 5


def test_the_shown_training_rule_conforms_and_is_pytorchs_momentum(shown):
    rule = shown("heavy_ball").HeavyBall
    assert len(check_training(rule).passed) == 6


def test_the_shown_repair_and_audit_conform(shown, tmp_path):
    parts = shown("dead_units")
    assert len(check_repair(parts.PruneDead).passed) >= 4

    def scene():
        config = parse({"strategy": "fedavg", "clients": 4, "audit": "dead_units:DeadUnits"})
        world = Simulation(config).world
        world.open(tmp_path / "out", None)
        return world.tending.scene

    assert len(check_audit(parts.DeadUnits, scene).passed) == 4


def test_the_shown_attack_conforms_and_does_harm(tmp_path, monkeypatch):
    found = re.search(
        r"Save as `turned_round\.py`.*?```python\n(.*?)```.*?```bash\n(.*?)```", TEXT, re.S
    )
    (tmp_path / "turned_round.py").write_text(found[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    check_attack(importlib.import_module("turned_round").TurnedRound)
    command = found[2].splitlines()[1]
    reached = []
    for attack in ([], ["--attack", "none"]):
        out = tmp_path / f"out{len(reached)}"
        assert simulate.main([*shlex.split(command)[3:], *attack, "--out", str(out)]) == 0
        reached.append(read_jsonl(out / "rounds.jsonl")[-1]["accuracy"])
        command = command.replace("--set attack.reach=2 ", "")
    sys.modules.pop("turned_round", None)
    assert reached[0] < reached[1] - 0.1
