"""The best model is kept, by which rows is told, and a run without a better one ends early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fedguard.audits.base import Audit
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.grids.inprocess import InProcessGrid
from fedguard.records.writer import read_jsonl
from fedguard.runs.course import Course
from fedguard.runs.judging import Judge
from fedguard.runs.simulation import Simulation

# It learns for three rounds; then the coalition turns plain averaging round.
FALLING = {
    "strategy": "fedavg",
    "attack": {"name": "sign-flip", "scale": 8.0},
    "attack_rounds": {"window": [4, 99]},
    "clients": 8,
    "malicious": 0.25,
    "rounds": 8,
    "local_epochs": 1,
    "partition": "iid",
    "server_samples": 60,
    "lr": 0.05,
}


def run(out: Path, *, resume: bool = False, **values: Any) -> dict[str, Any]:
    return Simulation(parse({**FALLING, **values})).run(out, resume=resume)


def accuracy_on(simulation: Simulation, path: Path, x: torch.Tensor, y: torch.Tensor) -> float:
    model = simulation.server_model.module
    model.load_state_dict(load_file(path))
    model.eval()
    with torch.no_grad():
        return float((model(x).argmax(dim=1) == y).double().mean())


def first_best(values: list[float]) -> int:
    """Return the round (from 1) of the first of the highest values."""
    return values.index(max(values)) + 1


def test_the_best_model_is_the_one_that_does_best_on_the_servers_rows(tmp_path):
    simulation = Simulation(parse(FALLING))
    summary = simulation.run(tmp_path)
    rounds = read_jsonl(tmp_path / "rounds.jsonl")[1:]
    judged = [record["judged"] for record in rounds]
    best = summary["best_model"]
    assert best["round"] == first_best(judged) < 8
    assert best["file"] == "best.safetensors"
    assert best["judged_on"] == "the server's 60 rows"
    assert best["held_out"] is True
    # The figures are those of that very model, worked out here from its file.
    server = simulation.federation.server_examples()
    path = tmp_path / "best.safetensors"
    assert accuracy_on(simulation, path, *server) == pytest.approx(best["judged"], abs=1e-12)
    on_test = accuracy_on(simulation, path, simulation.test_x, simulation.test_y)
    assert on_test == pytest.approx(best["accuracy"], abs=1e-12)
    assert on_test > summary["final"]["accuracy"] + 0.2
    with safe_open(path, framework="pt") as content:
        assert json.loads(content.metadata()["about"])["round"] == best["round"]


def test_where_the_server_has_no_rows_the_test_set_judges_and_the_summary_says_so(tmp_path):
    summary = run(tmp_path, server_samples=0)
    rounds = read_jsonl(tmp_path / "rounds.jsonl")[1:]
    best = summary["best_model"]
    assert best["judged_on"] == "the test set"
    assert best["held_out"] is False
    assert best["judged"] == best["accuracy"] == max(r["accuracy"] for r in rounds)


def test_who_else_uses_the_judges_rows_is_said(tmp_path):
    summary = run(tmp_path, strategy="fltrust", rounds=1, repair="finetune", repair_at="every:1")
    judged_on = summary["best_model"]["judged_on"]
    assert judged_on.endswith("which strategy fltrust and repair finetune uses as well")


def test_a_run_without_a_better_model_ends_when_its_patience_does(tmp_path):
    whole = run(tmp_path / "whole")
    short = run(tmp_path / "short", patience=2)
    judged = [r["judged"] for r in read_jsonl(tmp_path / "whole" / "rounds.jsonl")[1:]]
    last = next(n for n in range(1, 9) if n - first_best(judged[:n]) >= 2)
    assert 3 <= last < 8
    assert short["stopped"] == {"round": last, "of": 8, "patience": 2}
    assert "stopped" not in whole
    records = read_jsonl(tmp_path / "short" / "rounds.jsonl")
    assert [record["round"] for record in records] == list(range(last + 1))
    # Up to there, nothing is different.
    one, other = (load_file(tmp_path / d / "best.safetensors") for d in ("whole", "short"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert short["final"]["round"] == last


def test_a_run_that_ended_early_stays_ended_when_it_is_resumed(tmp_path):
    before = run(tmp_path, patience=2)
    model = (tmp_path / "model.safetensors").read_bytes()
    after = run(tmp_path, patience=2, resume=True)
    assert after["stopped"] == before["stopped"]
    assert after["best_model"] == before["best_model"]
    assert (tmp_path / "model.safetensors").read_bytes() == model


@pytest.mark.parametrize("crashed_in", [3, 5])
def test_after_a_crash_the_same_round_is_the_best(tmp_path, monkeypatch, crashed_in):
    straight = run(tmp_path / "straight")
    send = InProcessGrid.send_and_receive

    def crash(self, messages, **rest):
        found = list(messages)
        if found and found[0].content["config"]["server-round"] == crashed_in:
            raise KeyboardInterrupt
        return send(self, found, **rest)

    monkeypatch.setattr(InProcessGrid, "send_and_receive", crash)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.setattr(InProcessGrid, "send_and_receive", send)
    if crashed_in == 3:
        # The worst moment: the checkpoint of round 2 is written, its best model is not.
        (tmp_path / "cut" / "best.safetensors").unlink()
    resumed = run(tmp_path / "cut", resume=True)
    assert resumed["best_model"] == straight["best_model"]
    one, other = ((tmp_path / d / "best.safetensors").read_bytes() for d in ("straight", "cut"))
    assert one == other


def test_a_best_model_that_was_lost_is_not_claimed(tmp_path):
    run(tmp_path)
    (tmp_path / "best.safetensors").unlink()
    assert "best_model" not in run(tmp_path, resume=True)


BACKDOOR = {
    **FALLING,
    "attack": {"name": "badnets", "size": 3, "scale": 4.0},
    "attack_rounds": {"window": [3, 3]},
    "server_samples": 100,
}


def test_the_best_model_may_be_the_one_that_the_attack_does_least_to(tmp_path):
    summary = run(tmp_path, **{**BACKDOOR, "rounds": 5}, best_by="attack-success")
    judged = [r["judged"] for r in read_jsonl(tmp_path / "rounds.jsonl")[1:]]
    best = summary["best_model"]
    assert best["by"] == "attack_success_rate"
    assert best["round"] == judged.index(min(judged)) + 1
    assert judged[2] > min(judged)
    simulation = Simulation(parse({**BACKDOOR, "best_by": "attack-success"}))
    federation, attack = simulation.federation, simulation.attack
    own = federation.server_rows
    x, y = simulation.dataset.x_train[own], simulation.dataset.y_train[own]
    x = federation.normalise(attack.trigger(x[y != attack.target_class]))
    target = torch.full((len(x),), attack.target_class)
    rate = accuracy_on(simulation, tmp_path / "best.safetensors", x, target)
    assert rate == pytest.approx(best["judged"], abs=1e-12)


def test_a_label_flips_success_judges_too(tmp_path):
    attack = {"name": "label-flip", "mode": "targeted", "source_class": 7, "target_class": 1}
    summary = run(tmp_path, attack=attack, best_by="attack-success", rounds=2, server_samples=0)
    best = summary["best_model"]
    assert best["judged"] == best["source_to_target"]


class LastOnly(Audit):
    def look(self, server_round, vector, rng):
        return {}


REFUSED = [
    ({"best_by": "attack-success"}, "best_by", "neither has a trigger"),
    ({"patience": 0}, "patience", "greater than or equal to 1"),
    ({"patience": 2, "repair": "finetune"}, "repair_at", "every:R or alarm"),
    (
        {"patience": 2, "strategy": "soul", "unlearn": [{"client": 1, "round": 4}]},
        "patience",
        "may never reach a request",
    ),
    ({"patience": 2, "strategy": "vfl", "attack": "none"}, "patience", "vertical"),
    ({"patience": 2, "audit": f"{__name__}:LastOnly"}, "patience", "the last round alone"),
    (
        {
            "best_by": "attack-success",
            "attack": {"name": "label-flip", "mode": "targeted", "source_class": 9},
            "server_samples": 1,
        },
        "server_samples",
        "classes which the attack is about",
    ),
]


@pytest.mark.parametrize(("values", "field", "told"), REFUSED)
def test_what_cannot_be_meant_is_refused_before_the_first_round(values, field, told):
    given = {k: v for k, v in FALLING.items() if values.get("strategy") != "vfl" or k == "rounds"}
    with pytest.raises(ConfigurationError) as error:
        Simulation(parse({**given, **values}))
    assert error.value.field == field
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def judge(*, higher: bool) -> Judge:
    nothing: Any = None
    return Judge("accuracy", higher, 1, "", nothing, nothing, nothing, lambda x, y: None)


@pytest.mark.parametrize(
    ("values", "higher", "patience", "best", "end"),
    [
        ([0.1, 0.5, 0.5, 0.5], True, 2, 2, 4),  # an equal model is no better one
        ([0.1, 0.5, None, 0.6], True, 2, 4, None),  # a destroyed model waits, and is not the best
        ([None, None, None], True, 3, None, 3),
        ([9.0, 3.0, 4.0, 2.0], False, 2, 4, None),
        ([9.0, 3.0, 4.0, 5.0], False, 2, 2, 4),
        ([0.3, 0.2, 0.1], True, None, 1, None),
    ],
)
def test_the_course_of_figures_by_hand(tmp_path, values, higher, patience, best, end):
    course = Course(judge(higher=higher), patience, tmp_path)
    assert not course.add({"round": 0, "judged": 1.0 if higher else 0.0})
    ended = None
    for number, value in enumerate(values, start=1):
        course.add({"round": number, "judged": value})
        if course.stalled and ended is None:
            ended = number
    assert course.round == best
    assert ended == end


def test_a_file_that_is_no_model_is_no_best_model(tmp_path):
    course = Course(judge(higher=True), None, tmp_path)
    assert course.kept() is None
    (tmp_path / "best.safetensors").write_bytes(json.dumps({"round": 3}).encode())
    assert course.kept() is None
