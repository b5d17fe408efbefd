from __future__ import annotations

import json
import math

import pytest

from fedguard.errors import ConfigurationError
from fedguard.records.writer import Recorder, jsonable, read_jsonl, write_atomically


def test_what_json_cannot_hold_becomes_null(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.write_json("a.json", {"loss": math.nan, "list": [math.inf, 1.5], "set": {3}})
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "loss": None,
        "list": [None, 1.5],
        "set": [3],
    }
    assert jsonable((1, "x", None)) == [1, "x", None]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.append("rounds.jsonl", [{"round": 0}, {"round": 1}])
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 2, "acc')
    assert [record["round"] for record in read_jsonl(tmp_path / "rounds.jsonl")] == [0, 1]


def test_reasons_from_outside_cannot_split_a_record(tmp_path):
    recorder = Recorder(tmp_path)
    reason = "line\u2028separator, next\u0085line, new\nline and \x1c"
    recorder.append("clients.jsonl", [{"round": 1, "reason": reason}, {"round": 2}])
    records = read_jsonl(tmp_path / "clients.jsonl")
    assert records[0]["reason"] == reason
    assert len(records) == 2


def test_records_after_the_checkpoint_are_dropped(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.append("rounds.jsonl", [{"round": number} for number in range(6)])
    recorder.append("clients.jsonl", [{"round": n, "client": c} for n in (1, 2) for c in (0, 1)])
    recorder.truncate_after(1)
    assert [record["round"] for record in read_jsonl(tmp_path / "rounds.jsonl")] == [0, 1]
    assert len(read_jsonl(tmp_path / "clients.jsonl")) == 2


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new content")
    assert path.read_bytes() == b"new content"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="out"):
        Recorder(tmp_path / "file" / "below")
