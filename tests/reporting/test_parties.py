"""The curves of vertical learning hold what clients.jsonl recorded of every party."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedguard.records.reader import Run, read_run
from fedguard.reporting.parties import CURVES, MOST, party_figure
from fedguard.reporting.report import write_report


def vertical(path: Path, parties: int = 3, rounds: int = 4, **summary: object) -> Run:
    path.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "round": r,
            "client": party,
            "malicious": party == 1,
            "accepted": True,
            "scores": {"tokens": 10.0 * party + r, **({"epsilon": 1.0} if r > 1 else {})},
        }
        for r in range(1, rounds + 1)
        for party in range(parties)
    ]
    (path / "clients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "summary.json").write_text(json.dumps({"partition": "columns", **summary}))
    return read_run(path)


def test_every_party_has_the_curve_that_was_recorded(tmp_path: Path) -> None:
    figure = party_figure(vertical(tmp_path), "tokens")
    drawn = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert drawn["party 0"] == ([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0])
    assert drawn["party ◆ 1"] == ([1, 2, 3, 4], [11.0, 12.0, 13.0, 14.0])
    assert drawn["party 2"] == ([1, 2, 3, 4], [21.0, 22.0, 23.0, 24.0])


def test_rounds_without_a_score_are_left_out(tmp_path: Path) -> None:
    figure = party_figure(vertical(tmp_path), "epsilon")
    assert list(figure.data[0].x) == [2, 3, 4]


def test_malicious_parties_differ_without_colour(tmp_path: Path) -> None:
    figure = party_figure(vertical(tmp_path), "tokens")
    assert {trace.name: trace.line.dash for trace in figure.data} == {
        "party ◆ 1": "dash",
        "party 0": "solid",
        "party 2": "solid",
    }


def test_no_more_parties_than_can_be_told_apart(tmp_path: Path) -> None:
    assert len(party_figure(vertical(tmp_path, parties=MOST + 9), "tokens").data) == MOST


def test_a_score_that_nobody_has_is_no_figure(tmp_path: Path) -> None:
    assert party_figure(vertical(tmp_path), "utility") is None


@pytest.mark.parametrize(("partition", "drawn"), [("columns", 2), ("strips", 2), ("iid", 0)])
def test_only_vertical_runs_have_the_section(tmp_path: Path, partition: str, drawn: int) -> None:
    vertical(tmp_path, partition=partition)
    page = write_report(tmp_path).read_text()
    assert ('<section id="parties">' in page) is (drawn > 0)
    titles = [title for title, _ in CURVES.values()]
    assert sum(f"<h3>{title}</h3>" in page for title in titles) == drawn
