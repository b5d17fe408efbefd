"""Repairs and audits: figures by round as a table and drawn, only where a run has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from html_tables import columns_of, tables_of
from synthetic_run import write_run
from test_report import HOSTILE, Tags, page_of

from fedguard.records.reader import read_run
from fedguard.reporting.events import (
    MAX_COLUMNS,
    MAX_CURVES,
    audits_section,
    event_figure,
    repairs_section,
)

REPAIRS: list[dict[str, Any]] = [
    {"round": 5, "repair": "rnp", "seconds": 2.5, "pruned": 12, "clean_accuracy": 0.91234},
    {"round": 10, "repair": "rnp", "seconds": 75.0, "pruned": 7, "clean_accuracy": None},
]
AUDITS: list[dict[str, Any]] = [
    {"round": 1, "audit": "raven", "leak": 1e-6, "groups": 4},
    {"round": 1, "audit": "verification", "forgotten": True, "words": "none"},
    {"round": 2, "audit": "raven", "leak": 2.0, "groups": 4},
]


def write(path: Path, name: str, lines: list[dict[str, Any]]) -> Path:
    (path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_runs_without_the_files_have_no_sections(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=2)
    run = read_run(path)
    assert (repairs_section(run), audits_section(run)) == ("", "")
    assert run.problems == [], "a file that only some runs have is not missed"
    page = page_of(path)
    assert 'id="repairs"' not in page
    assert 'id="audits"' not in page


def test_a_repairs_table_holds_its_figures(tmp_path: Path) -> None:
    page = repairs_section(read_run(write(tmp_path, "repairs.jsonl", REPAIRS)))
    (found,) = tables_of(page)
    assert columns_of(found) == {
        "round": ["5", "10"],
        "seconds": ["2.50 s", "1 min 15 s"],
        "pruned": ["12", "7"],
        "clean accuracy": ["0.9123", "–"],
    }
    assert "<h3>rnp</h3>" in page
    assert "2 times" in page


def test_only_figures_of_several_rounds_are_drawn(tmp_path: Path) -> None:
    page = repairs_section(read_run(write(tmp_path, "repairs.jsonl", REPAIRS)))
    (drawn,) = [json.loads(text) for text in Tags(page).data]
    assert drawn["data"][0]["x"] == [5, 10]
    assert drawn["data"][0]["y"] == [12.0, 7.0]
    assert drawn["data"][0]["name"] == "pruned"


def test_every_audit_has_a_table_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, "audits.jsonl", AUDITS)
    ends = {"raven": {"worst_leak": 2.0}, "verification": {}}
    (tmp_path / "summary.json").write_text(json.dumps({"audits": ends}))
    page = audits_section(read_run(tmp_path))
    raven, verification = map(columns_of, tables_of(page))
    assert raven["leak"] == ["1e-06", "2"]
    assert raven["round"] == ["1", "2"]
    assert verification == {"round": ["1"], "forgotten": ["yes"], "words": ["none"]}
    assert "<dt>worst leak</dt><dd>2</dd>" in page


def test_a_repair_says_when_it_was_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "repairs.jsonl", REPAIRS)
    (tmp_path / "summary.json").write_text(json.dumps({"repair": "rnp", "repair_at": "every:5"}))
    assert "asked for every:5." in repairs_section(read_run(tmp_path))


def test_figures_over_many_decades_are_logarithmic() -> None:
    wide = event_figure("leak", [1, 2], [{"leak": 1e-6}, {"leak": 2.0}])
    near = event_figure("leak", [1, 2], [{"leak": 1.0}, {"leak": 2.0}])
    below = event_figure("leak", [1, 2], [{"leak": -1e-6}, {"leak": 2.0}])
    assert [figure.layout.yaxis.type for figure in (wide, near, below)] == ["log", None, None]


def test_a_line_written_twice_counts_once_as_written_last(tmp_path: Path) -> None:
    again = {"round": 10, "repair": "rnp", "pruned": 9}
    write(tmp_path, "repairs.jsonl", [*REPAIRS, again])
    lines = read_run(tmp_path).repairs
    assert [(line["round"], line["pruned"]) for line in lines] == [(5, 12), (10, 9)]


def test_lines_are_in_the_order_of_rounds(tmp_path: Path) -> None:
    write(tmp_path, "audits.jsonl", AUDITS[::-1])
    lines = read_run(tmp_path).audits
    order = [(line["round"], line["audit"]) for line in lines]
    assert order == [(1, "raven"), (1, "verification"), (2, "raven")]


def test_a_wide_record_costs_neither_page_nor_time(tmp_path: Path) -> None:
    lines = [
        {"round": r, "audit": "wide", **{f"f{n}": float(n) for n in range(500)}} for r in (1, 2)
    ]
    page = audits_section(read_run(write(tmp_path, "audits.jsonl", lines)))
    assert len(tables_of(page)[0][0]) == 1 + MAX_COLUMNS
    assert len(Tags(page).data) == MAX_CURVES


@pytest.mark.parametrize("content", ["", "not json\n", "[1]\n", '{"repair": "x"}\n', "\x00"])
def test_damaged_files_cost_their_section_alone(tmp_path: Path, content: str) -> None:
    path = write_run(tmp_path / "run", rounds=1)
    (path / "repairs.jsonl").write_text(content)
    page = page_of(path)
    assert "This part could not be drawn" not in page
    assert 'id="repairs"' not in page


def test_no_text_of_theirs_becomes_an_element(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=1)
    line = {HOSTILE: HOSTILE, "x" + HOSTILE: 1.0, "list": [HOSTILE], "nested": {HOSTILE: HOSTILE}}
    for kind in ("repair", "audit"):
        lines = [{"round": r, kind: HOSTILE, **line} for r in (1, 2)]
        write(path, f"{kind}s.jsonl", lines)
    summary = json.loads((path / "summary.json").read_text())
    summary |= {"audits": {HOSTILE: {HOSTILE: HOSTILE}}, "repair_at": HOSTILE, "repair": HOSTILE}
    summary |= {"enrolment": HOSTILE, "training": HOSTILE}
    (path / "summary.json").write_text(json.dumps(summary))
    page = page_of(path)
    tags = Tags(page)
    assert "This part could not be drawn" not in page
    assert HOSTILE not in page
    assert tags.count("img") == 0
    assert tags.count("script") == len(tags.data) + 2
    for text in tags.data:
        assert "<b>" not in json.dumps(json.loads(text), ensure_ascii=False)
