"""`fedguard leaderboard` runs a battery once, writes its page, and tries newcomers first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fedguard.commands import leaderboard
from fedguard.simulate import main

BATTERY = {
    "version": "v0",
    "reference": "fedavg",
    "sizes": {
        "quick": {
            "base": {"rounds": 1, "clients": 5, "local_epochs": 1, "server_samples": 20},
            "grid": {"attack": ["none", {"name": "sign-flip", "scale": 4.0}]},
            "defences": ["fedavg", "median"],
        }
    },
}

CLUMSY = """
from fedguard.strategies import RobustStrategy
from fedguard.updates import Verdict


class Clumsy(RobustStrategy):
    def combine(self, updates):
        return Verdict(updates.deltas[:, :1].sum(0), updates.deltas.new_ones(1))
"""


@pytest.fixture(autouse=True)
def _battery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_text(yaml.safe_dump(BATTERY))


def test_a_board_is_made_and_made_again_without_running(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["leaderboard", "b.yaml", "--json"]) == 0
    board = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {row["defence"]: row for row in board["leagues"]["none"]}
    assert set(rows) == {"fedavg", "median"}
    assert rows["fedavg"]["clean_cost"] == 0.0
    assert Path("leaderboard/v0-quick.html").is_file()
    kept = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("summary.json")}
    assert len(kept) == 4
    assert main(["leaderboard", "b.yaml"]) == 0
    assert "No server data" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_newcomer_that_does_not_conform_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("clumsy_rule.py").write_text(CLUMSY)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mine.yaml").write_text("strategy: clumsy_rule:Clumsy\n")
    assert main(["leaderboard", "b.yaml", "--add", "mine.yaml"]) == 2
    assert "a part that keeps its contract" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("runs").exists()


def test_a_newcomer_that_knows_who_lies_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedguard.campaigns import blindness

    monkeypatch.setattr(blindness, "blindness", lambda fields: 0.0002)
    Path("mine.yaml").write_text("name: mine\nstrategy: median\n")
    assert main(["leaderboard", "b.yaml", "--add", "mine.yaml"]) == 1
    assert "knows who is malicious" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_battery_without_accuracy_cannot_be_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedguard.campaigns.battery import read_battery
    from fedguard.errors import ConfigurationError

    battery = read_battery(Path("b.yaml"), "quick")
    found = {"final": {"perplexity": 12.0}}
    monkeypatch.setattr(leaderboard, "finished_summary", lambda *_: found)
    cells = battery.cells(battery.contenders[0], {})
    with pytest.raises(ConfigurationError, match="tells accuracy"):
        leaderboard.results(battery.contenders[0], cells, Path("runs"))
