"""Reading a run directory must survive whatever a crash, an old version or a stranger left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_run import count_replies, write_run

from fedguard.records.reader import ClientRecord, number, read_run


def test_reads_back_what_a_run_wrote(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", clients=12, malicious=3, rounds=4))
    assert not run.problems
    assert [line["round"] for line in run.rounds] == [0, 1, 2, 3, 4]
    assert len(run.clients) == 12 * 4
    assert len(run.malicious) == 3
    assert set(run.client_ids[:3]) == run.malicious
    assert run.client_ids[3:] == sorted(run.client_ids[3:], key=int)


def test_missing_directory_is_an_empty_run(tmp_path: Path) -> None:
    run = read_run(tmp_path / "nothing")
    assert run.summary == {}
    assert run.rounds == []
    assert len(run.problems) == 5


def test_damaged_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=3)
    with (path / "rounds.jsonl").open("a") as file:
        file.write('[1, 2]\n{"round": "x"}\n{"round": 4, "accur')
    run = read_run(path)
    assert [line["round"] for line in run.rounds] == [0, 1, 2, 3]
    assert any("rounds.jsonl: 2 unreadable" in problem for problem in run.problems)


def test_a_round_written_twice_counts_once_as_written_last(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=2)
    with (path / "rounds.jsonl").open("a") as file:
        file.write(json.dumps({"round": 1, "accuracy": 0.123}) + "\n")
    assert read_run(path).series("accuracy")[1] == 0.123


def test_line_separators_in_a_reason_do_not_split_the_record(tmp_path: Path) -> None:
    record = {"round": 1, "client": 1, "accepted": False, "reason": "a\u2028b\x85c"}
    (tmp_path / "clients.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n", "utf-8")
    run = read_run(tmp_path)
    assert [r.reason for r in run.clients] == ["a\u2028b\x85c"]


@pytest.mark.parametrize("value", [None, True, "1", [], {}, float("nan"), float("inf"), 10**400])
def test_number_takes_finite_numbers_only(value: object) -> None:
    assert number(value) is None


@pytest.mark.parametrize(
    ("fields", "accepted", "malformed"),
    [
        ({"accepted": True, "num_examples": 3.0}, True, False),
        ({"accepted": False, "num_examples": 3.0}, False, False),
        ({"accepted": False, "num_examples": None, "scores": {}}, False, True),
        ({"accepted": None, "weight": None, "num_examples": None}, None, False),
        ({"weight": 0.2, "num_examples": 3.0}, True, False),
        ({"weight": 0.0, "num_examples": 3.0}, False, False),
    ],
)
def test_what_a_client_record_says(
    fields: dict[str, object], accepted: bool | None, malformed: bool
) -> None:
    record = ClientRecord.from_json({"round": 1, "client": 3, **fields})
    assert record is not None
    assert (record.accepted, record.malformed) == (accepted, malformed)


@pytest.mark.parametrize(
    ("fields", "outcome", "accepted", "malformed"),
    [
        ({"outcome": "accepted", "accepted": True}, "accepted", True, False),
        ({"outcome": "rejected", "accepted": False, "num_examples": 3.0}, "rejected", False, False),
        ({"outcome": "failed", "accepted": False}, "failed", False, True),
        ({"outcome": "set aside", "accepted": False}, "set aside", False, True),
        ({"outcome": "failed", "accepted": None}, "failed", False, True),
        ({"outcome": None, "accepted": None, "weight": None}, None, None, False),
        ({"outcome": "rejected", "accepted": False}, "rejected", False, False),
        ({"accepted": False}, "malformed", False, True),
        ({"accepted": False, "num_examples": 3.0}, "rejected", False, False),
        ({"weight": 0.2, "num_examples": 3.0}, "accepted", True, False),
        ({"outcome": "vanished", "accepted": True}, "accepted", True, False),
        ({"outcome": ["failed"], "accepted": True}, "accepted", True, False),
        ({"outcome": True, "accepted": None}, None, None, False),
    ],
)
def test_what_became_of_a_client(
    fields: dict[str, object], outcome: str | None, accepted: bool | None, malformed: bool
) -> None:
    record = ClientRecord.from_json({"round": 1, "client": 3, **fields})
    assert record is not None
    assert record.outcome == outcome
    assert record.accepted is accepted
    assert record.malformed is malformed


def test_newer_runs_count_failed_and_set_aside_apart(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=12)
    assert not read_run(path).counts_replies
    records = count_replies(path)
    run = read_run(path)
    assert run.counts_replies
    found = {(r.round, r.client): r.outcome for r in run.clients}
    assert found == {(r["round"], str(r["client"])): r["outcome"] for r in records}


def test_repairs_and_audits_are_read_where_they_are(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=1)
    assert (read_run(path).repairs, read_run(path).audits) == ([], [])
    lines = [
        '{"round": 2, "repair": "b", "x": 1}',
        '{"round": 1.0, "repair": "b"}',
        '{"repair": "no round"}',
        '{"round": 2, "repair": "a"}',
        '{"round": 2}',
        "not json",
        '{"round": 2, "repair": "b", "x": 2}',
    ]
    (path / "repairs.jsonl").write_text("\n".join(lines))
    run = read_run(path)
    assert run.repairs == [
        {"round": 1, "repair": "b"},
        {"round": 2, "repair": "a"},
        {"round": 2, "repair": "b", "x": 2},
        {"round": 2, "repair": "unnamed"},
    ]
    assert run.problems == ["repairs.jsonl: 1 unreadable line(s) left out"]


def test_a_score_that_is_no_finite_number_is_dropped() -> None:
    line = {"round": 1, "client": 3, "scores": {"a": float("nan"), "b": 2, "c": "x"}}
    record = ClientRecord.from_json(line)
    assert record is not None
    assert record.scores == {"b": 2.0}
