from __future__ import annotations

import random
import subprocess
import sys

import pytest
import yaml
from cut_short import kill
from safetensors.torch import load_file

from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.records.provenance import model_sha256
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

SUBJECTS = ("the king", "the queen", "a fool", "my lord")
VERBS = ("sees", "loves", "fears", "hears")
PLAYERS = ("FIRST", "SECOND", "THIRD", "FOURTH")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A play whose every speaker says what one of four subjects does, over and over."""
    draw, blocks = random.Random(3), []
    for _ in range(240):
        who = draw.randrange(4)
        words = f"{SUBJECTS[who]} {VERBS[draw.randrange(4)]} {SUBJECTS[draw.randrange(4)]} ."
        blocks.append(f"{PLAYERS[who]}:\n{words}")
    path = tmp_path_factory.mktemp("play")
    (path / "input.txt").write_text("\n\n".join(blocks))
    return path


def config(folder, **values):
    given = {
        "dataset": {"name": "shakespeare", "speakers": 4, "length": 6, "vocabulary": 14},
        "data_dir": folder,
        "clients": 4,
        "malicious": 0.25,
        "model": {"name": "word-gru", "width": 16},
        "rounds": 4,
        "strategy": "median",
        "attack": "none",
        **values,
    }
    return parse(given)


def run(folder, out, **values):
    summary = Simulation(config(folder, **values)).run(out)
    return summary, read_jsonl(out / "rounds.jsonl")


def test_perplexity_falls_from_the_size_of_the_vocabulary(folder, tmp_path):
    summary, rounds = run(folder, tmp_path / "run", rounds=8)
    assert summary["headline"] == {
        "name": "perplexity",
        "higher_is_better": False,
        "unit": "plain",
    }
    # An untrained model guesses among 14 words; what is said has two or three free choices in six.
    assert 11 < rounds[0]["perplexity"] < 18
    assert rounds[-1]["perplexity"] < 5
    assert summary["best"]["perplexity"] == min(r["perplexity"] for r in rounds[1:])
    assert summary["split"]["counts"] == [
        [len(s)] for s in Simulation(config(folder)).federation.shards
    ]


@pytest.mark.parametrize("attack", [{"name": "sign-flip", "scale": 6.0}, "label-flip"])
def test_attacks_raise_it_and_a_rule_keeps_it_down(folder, tmp_path, attack):
    part = {"name": "label-flip", "scale": 6.0} if attack == "label-flip" else attack
    hurt, _ = run(folder, tmp_path / "hurt", strategy="fedavg", attack=part, rounds=6)
    kept, _ = run(folder, tmp_path / "kept", attack=part, rounds=6)
    assert hurt["final"]["perplexity"] > 1.3 * kept["final"]["perplexity"]


@pytest.mark.parametrize("part", ["geminiguard", "badnets"])
def test_what_needs_classes_is_refused(folder, part):
    kind = "attack" if part == "badnets" else "strategy"
    values = {kind: part, "server_samples": 10}
    with pytest.raises(ConfigurationError, match=rf"{kind}: '{part}' .*(next-word|images)"):
        Simulation(config(folder, **values))


def test_a_run_goes_on_after_a_stop_bit_for_bit(folder, tmp_path):
    values = {"training": {"name": "adam", "keep": True}, "lr": 0.01, "attack": "sign-flip"}
    run(folder, tmp_path / "whole", **values)

    class StoppedError(Exception):
        pass

    def stop(record):
        if record["round"] == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        Simulation(config(folder, **values)).run(tmp_path / "cut", on_round=stop)
    Simulation(config(folder, **values)).run(tmp_path / "cut", resume=True)
    assert model_sha256(tmp_path / "cut") == model_sha256(tmp_path / "whole")


def test_kill_minus_nine_and_resume_by_the_command_end_bit_for_bit(folder, tmp_path):
    values = {"attack": "sign-flip", "rounds": 25, "training": {"name": "adam", "keep": True}}
    written = config(folder, **values)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(written.model_dump(mode="json")))
    kill(tmp_path / "cut", [str(tmp_path / "run.yaml")], "round-0000[01][3-9]*")
    command = [sys.executable, "-m", "fedguard.simulate", str(tmp_path / "run.yaml"), "--resume"]
    subprocess.run([*command, "--out", str(tmp_path / "cut")], check=True, capture_output=True)
    run(folder, tmp_path / "whole", **values)
    assert len(read_jsonl(tmp_path / "cut" / "rounds.jsonl")) == 26
    assert model_sha256(tmp_path / "cut") == model_sha256(tmp_path / "whole")


@pytest.mark.parametrize("executor", ["vmap"])
def test_batched_training_agrees(folder, tmp_path, executor):
    one, _ = run(folder, tmp_path / "reuse", executor="reuse", rounds=2)
    other, _ = run(folder, tmp_path / "batched", executor=executor, rounds=2)
    close = pytest.approx(one["final"]["perplexity"], rel=1e-3)
    assert other["final"]["perplexity"] == close


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "within"), [("ray", 0.0), ("flower", 1e-5)])
def test_engines_agree(folder, tmp_path, engine, within):
    # Flower's messages carry models, not updates: one subtraction more on the way.
    values = {"executor": "reuse", "rounds": 2, "attack": "sign-flip"}
    run(folder, tmp_path / "here", **values)
    run(folder, tmp_path / "there", engine=engine, workers=2, **values)
    here, there = (load_file(tmp_path / name / "model.safetensors") for name in ("here", "there"))
    for name, value in here.items():
        assert float((value - there[name]).abs().max()) <= within, name
