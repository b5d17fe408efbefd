"""A user's own ClientApp under our engines, adversary and metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedguard import simulate
from fedguard.records.writer import read_jsonl

WORLD = ["--model", "logistic", "--clients", "6", "--malicious", "0.17", "--rounds", "3"]
WORLD += ["--strategy", "multi-krum"]


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def run(out: str, *more: str) -> int:
    return simulate.main([*WORLD, "--client-app", "own_client:app", "--out", out, *more])


def test_it_trains_and_its_malicious_client_is_rejected(tmp_path):
    assert run("own") == 0
    rounds = read_jsonl(tmp_path / "own" / "rounds.jsonl")
    assert rounds[-1]["accuracy"] > rounds[0]["accuracy"] + 0.2
    clients = read_jsonl(tmp_path / "own" / "clients.jsonl")
    liars = [record for record in clients if record["malicious"]]
    assert len(liars) == 3
    assert not any(record["accepted"] for record in liars)


def test_its_run_configuration_comes_from_ours(tmp_path):
    assert run("slow", "--set", "client_app.lr=0.0") == 0
    rounds = read_jsonl(tmp_path / "slow" / "rounds.jsonl")
    # Nobody learns anything, so the liar's flipped update is as empty as the honest ones.
    assert rounds[-1]["accuracy"] == rounds[0]["accuracy"]


def test_a_client_that_raises_is_recorded_and_the_run_goes_on(tmp_path):
    assert run("broken", "--set", "client_app.broken-client=2") == 0
    records = read_jsonl(tmp_path / "broken" / "clients.jsonl")
    reasons = {record["reason"] for record in records if record["client"] == 2}
    assert reasons == {"error reply: RuntimeError: my data are gone"}


def test_one_that_exits_and_two_that_hang_are_lost_with_their_reasons(tmp_path):
    lost = ["leaving-client=1", "endless-client=3", "sleeping-client=4"]
    settings = [word for setting in lost for word in ("--set", f"client_app.{setting}")]
    assert run("lost", "--round-timeout", "1", *settings) == 0
    records = read_jsonl(tmp_path / "lost" / "clients.jsonl")
    found = {(r["client"], r["round"]): r["reason"] for r in records if r["outcome"] == "failed"}
    late = "error reply: no reply within 1 s (round_timeout)"
    gone = "error reply: it has not come back from an earlier round (round_timeout)"
    exits = "error reply: the client called sys.exit(I have had enough)"
    assert found == {
        **{(1, current): exits for current in (1, 2, 3)},
        # A loop can be ended, and is tried again; who waits in the operating system is gone.
        **{(3, current): late for current in (1, 2, 3)},
        **{(4, 1): late, (4, 2): gone, (4, 3): gone},
    }
    rounds = read_jsonl(tmp_path / "lost" / "rounds.jsonl")
    assert [record["failed"] for record in rounds] == [0, 3, 3, 3]
    assert rounds[-1]["accuracy"] > rounds[0]["accuracy"] + 0.2


@pytest.mark.slow
def test_the_process_ends_although_a_client_never_does(tmp_path):
    lost = "client_app.sleeping-client=4"
    command = [*WORLD, "--client-app", "own_client:app", "--round-timeout", "5"]
    command += ["--out", "ends", "--set", lost]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-m", "fedguard.simulate", *command],
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0


@pytest.mark.slow
def test_flowers_engine_loses_the_same_clients(tmp_path):
    """Takes two minutes: Flower ends a worker at every error, and the next imports PyTorch anew."""
    settings = ["--set", "client_app.leaving-client=1", "--set", "client_app.endless-client=3"]
    settings += ["--rounds", "2"]
    assert run("there", "--engine", "flower", "--round-timeout", "30", *settings) == 0
    records = read_jsonl(tmp_path / "there" / "clients.jsonl")
    found = {(r["client"], r["round"]) for r in records if r["outcome"] == "failed"}
    assert found == {(client, current) for client in (1, 3) for current in (1, 2)}


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("own_client", "package.module:app"),
        ("own_client:nothing", "has no attribute"),
        ("own_client:not_an_app", "this is str"),
        ("no_such_module:app", "No module named"),
    ],
)
def test_a_bad_path_is_one_line_and_exit_2(path, says, capsys):
    assert simulate.main([*WORLD, "--client-app", path, "--out", "bad"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("fedguard: client_app: ")
    assert says in said
    assert "\n" not in said


def test_an_attack_on_data_that_are_not_ours_is_refused(capsys):
    assert run("data", "--attack", "label-flip") == 2
    assert "data of its own" in capsys.readouterr().err


@pytest.mark.slow
def test_flowers_engine_gives_the_same_model(tmp_path):
    assert run("here") == 0
    assert run("there", "--engine", "flower") == 0
    ours, theirs = (load_file(tmp_path / d / "model.safetensors") for d in ("here", "there"))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-5, rtol=0)
