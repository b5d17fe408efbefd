"""Lines of a run that stop at a round, and states that come back from a checkpoint."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.records.checkpoints import Checkpoint, CheckpointStore
from fedguard.records.directory import choose_directory
from fedguard.records.writer import BY_ROUND, Recorder, jsonable, read_jsonl, write_atomically


def checkpoint(server_round: int = 3) -> Checkpoint:
    return Checkpoint(
        server_round,
        torch.tensor([1.0, 2.0]),
        torch.tensor([0.0, 1.0]),
        {"trust": torch.tensor([0.5])},
        12.5,
        {"late": torch.tensor([4.0])},
        {"7/adam.m": torch.tensor([9.0])},
    )


def test_every_state_comes_back_under_its_own_name(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoint", "digest")
    store.save(checkpoint())
    found = store.newest()
    assert (found.server_round, found.seconds) == (3, 12.5)
    assert found.model.tolist() == [1.0, 2.0]
    assert found.previous_model.tolist() == [0.0, 1.0]
    for part in ("strategy_state", "grid_state", "client_state"):
        wanted, got = getattr(checkpoint(), part), getattr(found, part)
        assert wanted.keys() == got.keys(), part
        assert all(torch.equal(value, got[name]) for name, value in wanted.items())


def test_the_newest_two_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, "digest")
    for server_round in (1, 2, 3):
        store.save(checkpoint(server_round))
    kept = sorted(path.name for path in tmp_path.glob("round-*"))
    assert kept == ["round-000002.safetensors", "round-000003.safetensors"]
    (tmp_path / kept[1]).write_bytes(b"torn")
    assert store.newest().server_round == 2


def test_lines_after_a_round_and_a_torn_one_are_dropped_from_every_file(tmp_path):
    recorder = Recorder(tmp_path)
    for name in BY_ROUND:
        recorder.append(name, [{"round": t, "at": name} for t in (0, 1, 2, 3)])
        with (tmp_path / name).open("a") as file:
            file.write('{"round": 1, "to')
    recorder.truncate_after(1)
    for name in BY_ROUND:
        assert read_jsonl(tmp_path / name) == [{"round": t, "at": name} for t in (0, 1)]
        assert (tmp_path / name).read_text().endswith("}\n")


def test_what_json_cannot_hold_is_none():
    given = {"a": math.nan, 2: (1.0, math.inf), "c": {"d": [-math.inf, "x", True]}}
    assert jsonable(given) == {"a": None, "2": [1.0, None], "c": {"d": [None, "x", True]}}
    assert json.loads(json.dumps(jsonable(given)))["c"]["d"] == [None, "x", True]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "summary.json"
    write_atomically(path, b"old")
    (tmp_path / "summary.json.tmp").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_run_directory_is_never_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = parse({"strategy": "krum"})
    first = choose_directory(config, None, resume=False)
    Recorder(first).write_config(config.resolved())
    second = choose_directory(config, None, resume=False)
    assert second.name == first.name + "-2"
    assert choose_directory(config, None, resume=True) == first
    with pytest.raises(ConfigurationError, match="--resume"):
        choose_directory(config, first, resume=False)
    with pytest.raises(ConfigurationError, match="lr"):
        choose_directory(config.model_copy(update={"lr": 3.0}), first, resume=True)
    # How many rounds it may have, the run itself knows.
    assert choose_directory(config.model_copy(update={"rounds": 3}), first, resume=True) == first
