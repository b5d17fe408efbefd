"""A finished run goes on for more rounds, and ends as if it had been that long from the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedguard.campaigns.cells import comparable_bytes
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.simulate import main
from fedguard.training.sgd import Sgd

SMALL = {
    "strategy": "multi-krum",
    "attack": {"name": "badnets", "size": 2},
    "attack_rounds": {"probability": 0.5},
    "clients": 8,
    "fraction": 0.75,
    "malicious": 0.25,
    "local_epochs": 1,
    "server_samples": 40,
    "evaluate_clients": 0.2,
    "faults": {"delay": 0.3, "dropout": 0.1},
}


def run(out: Path, rounds: int, *, resume: bool = False, **values: Any) -> dict[str, Any]:
    return Simulation(parse({**SMALL, "rounds": rounds, **values})).run(out, resume=resume)


def check_alike(tmp_path: Path, one: str, other: str) -> None:
    """Compare every file of two runs byte by byte, their times left out."""
    first, second = (comparable_bytes(tmp_path / name) for name in (one, other))
    for name, content in first.items():
        assert content == second[name], name
    for name in ("best.safetensors", "fairness.jsonl"):
        assert (tmp_path / one / name).read_bytes() == (tmp_path / other / name).read_bytes()


@pytest.mark.parametrize(
    "values",
    [
        {"strategy": "geminiguard"},
        {"training": {"name": "adam", "keep": True}, "strategy": "fldetector"},
        {"training": {"name": "sgd", "schedule": "step", "every": 2}},
        {"repair": "finetune", "repair_at": "every:2"},
        {"strategy": "flwr.serverapp.strategy:FedAvg", "attack": "sign-flip"},
    ],
    ids=["gemini", "memories", "step schedule", "repairs", "a stranger's strategy"],
)
def test_four_rounds_and_three_more_are_seven(tmp_path, values):
    run(tmp_path / "seven", 7, **values)
    run(tmp_path / "grown", 4, **values)
    run(tmp_path / "grown", 7, resume=True, **values)
    check_alike(tmp_path, "seven", "grown")
    assert len(read_jsonl(tmp_path / "grown" / "rounds.jsonl")) == 8


def test_an_unfinished_run_may_be_made_shorter_but_not_than_it_is(tmp_path):
    run(tmp_path / "three", 3)
    run(tmp_path / "run", 3)
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(ConfigurationError, match="rounds: 2 is not valid; allowed: at least 3"):
        run(tmp_path / "run", 2, resume=True)
    run(tmp_path / "run", 3, resume=True)
    check_alike(tmp_path, "three", "run")


class Warmup(Sgd):
    """A user's own schedule, which reads how many rounds there are."""

    def factor(self, server_round: int, rounds: int) -> float:
        return min(1.0, server_round / (rounds / 2))


class Hooked(Sgd):
    """A user's own rule, whose hook reads how many rounds there are."""

    spans = True


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"training": {"name": "sgd", "schedule": "cosine"}}, "schedule that ends with the last"),
        ({"training": {"name": "adam", "schedule": "cosine"}}, "schedule that ends with the last"),
        ({"training": f"{__name__}:Warmup"}, "schedule that ends with the last"),
        ({"training": f"{__name__}:Hooked"}, "schedule that ends with the last"),
        ({"repair": "finetune"}, "repaired in round 3, as the last one"),
        ({"repair": "finetune", "repair_at": "every:2"}, "repaired in round 3, as the last one"),
    ],
)
def test_a_run_whose_rounds_know_their_number_does_not_grow(tmp_path, values, told):
    run(tmp_path, 3, **values)
    before = comparable_bytes(tmp_path)
    with pytest.raises(ConfigurationError) as error:
        run(tmp_path, 5, resume=True, **values)
    assert error.value.field == "rounds"
    assert told in str(error.value)
    assert "allowed: 3" in str(error.value)
    # It is as it was, and may be reported on again.
    assert comparable_bytes(tmp_path) == before
    run(tmp_path, 3, resume=True, **values)


def test_the_command_adds_rounds_and_nothing_else(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), "--clients", "8", "--set", "local_epochs=1"]
    assert main(["--rounds", "2", *out]) == 0
    assert main(["--rounds", "3", *out]) == 2
    assert "--resume to go on" in capsys.readouterr().err
    assert main(["--rounds", "3", "--resume", *out]) == 0
    assert len(read_jsonl(tmp_path / "run" / "rounds.jsonl")) == 4
    assert main(["--rounds", "4", "--resume", *out, "--lr", "0.2"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == (
        f"fedguard: lr: 0.2 is not valid; allowed: 0.1, as in the run that {tmp_path / 'run'} holds"
    )


def test_a_longer_run_ends_early_where_it_would_have(tmp_path):
    falling = {"strategy": "fedavg", "attack": {"name": "sign-flip", "scale": 8.0}, "faults": {}}
    values = {**falling, "attack_rounds": {"window": [3, 9]}, "patience": 2, "fraction": 1.0}
    straight = run(tmp_path / "straight", 9, **values)
    short = run(tmp_path / "grown", 3, **values)
    assert "stopped" not in short
    grown = run(tmp_path / "grown", 9, resume=True, **values)
    assert grown["stopped"] == straight["stopped"]
    check_alike(tmp_path, "straight", "grown")
