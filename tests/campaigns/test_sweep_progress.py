"""A campaign's progress counts what is there, tells failures, and estimates the time left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fedguard.campaigns.campaign import Cell, parse_campaign
from fedguard.campaigns.cells import CellResult
from fedguard.campaigns.progress import SweepProgress
from fedguard.commands.sweep import Pace


def cells(count: int) -> list[Cell]:
    return parse_campaign({"name": "x", "base": {"rounds": 10}, "seeds": count}).cells()


def shown(done: int, results: list[CellResult], *, workers: int, terminal: bool = False) -> str:
    left = cells(len(results))
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=200)
    with SweepProgress(done + len(left), Pace(), left, workers, console) as progress:
        for cell, result in zip(left, results, strict=True):
            progress.ended(cell, result)
    return text.getvalue()


def test_plain_lines_count_finished_runs_and_the_time_left() -> None:
    lines = shown(2, [CellResult("done", 0.5, 10, 20.0)] * 4, workers=2).splitlines()
    assert lines[0] == "2 of 6 runs are there, 4 to do"
    assert "run 3/6" in lines[1]
    assert "accuracy 50.0 % in 20 s" in lines[1]
    assert lines[1].endswith("30 s left"), "three runs of 20 s, two at a time"
    assert lines[3].endswith("20 s left"), "one run cannot be shared"
    assert "left" not in lines[4]


def test_a_failure_is_told_and_does_not_count_as_pace() -> None:
    lines = shown(
        0, [CellResult("failed", error="it broke"), CellResult("done", 0.5, 10, 5.0)], workers=1
    )
    assert "failed: it broke" in lines.splitlines()[1]
    assert "left" not in lines.splitlines()[1]


def test_a_terminal_gets_a_live_line_and_keeps_failures() -> None:
    text = shown(0, [CellResult("failed", error="it broke")], workers=1, terminal=True)
    assert "failed: it broke" in text
    assert "1/1" in text


def test_pace_is_by_strategy_and_falls_back_on_the_mean() -> None:
    grid = {"strategy": ["fedavg", "median", "krum"], "rounds": [10, 20]}
    found = {
        (c.config.strategy.name, c.config.rounds): c
        for c in parse_campaign({"name": "x", "grid": grid}).cells()
    }
    pace = Pace()
    assert pace.estimate(found.values()) is None
    pace.add(found["fedavg", 10], 10.0, 10)
    pace.add(found["median", 10], 30.0, 10)
    assert pace.estimate([found["fedavg", 20]]) == pytest.approx(20.0)
    assert pace.estimate([found["median", 20]]) == pytest.approx(60.0)
    assert pace.estimate([found["krum", 20]]) == pytest.approx(40.0)
