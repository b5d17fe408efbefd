from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from safetensors.torch import load_file
from vertical_worlds import config, needs, run

from fedguard import registry
from fedguard.config import load_yaml, parse
from fedguard.errors import ConfigurationError
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.simulate import main
from fedguard.traits import traits_of
from fedguard.vertical.world import VerticalWorld


@pytest.mark.parametrize("strategy", registry.names("strategy", "vertical"))
def test_every_vertical_strategy_runs_and_records(tmp_path, strategy):
    summary, rounds, records = run(tmp_path, strategy=strategy, rounds=2)
    assert [r["round"] for r in rounds] == [0, 1, 2]
    assert len(records) == 10
    assert rounds[-1]["accuracy"] > rounds[0]["accuracy"]
    assert math.isfinite(summary["final"]["loss"])
    assert summary["partition"] == "strips"
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"top", *(f"party-{p}" for p in range(5))}


@pytest.mark.parametrize("kind", ["strategy", "attack"])
def test_every_vertical_name_leads_to_a_part(kind):
    for name in registry.names(kind, "vertical"):
        assert traits_of(registry.find(kind, name)).world == "vertical"
    assert not set(registry.names(kind)) & set(registry.names(kind, "vertical"))


@pytest.mark.parametrize("reward", ["score-share", "contribution-over-cost"])
@pytest.mark.parametrize("loo", ["heads", "shared", "copies"])
def test_tokens_sum_to_the_budget_every_round(tmp_path, reward, loo):
    strategy = {"name": "opus-vfl", "reward": reward, "loo": loo, "budget": 333, "warmup": 1}
    _, rounds, records = run(tmp_path, strategy=strategy, rounds=4, batch_size=128)
    for line in rounds[1:]:
        paid = [r["tokens"] for r in records if r["round"] == line["round"] and r["tokens"]]
        assert sum(paid) == line["tokens"] == line["budget"] == 333
    for record in records:
        if record["client"] and record["tokens"] is not None:
            assert record["scores"]["utility"] == record["tokens"] - 5.0


def test_epsilon_moves_within_its_limits_and_the_total_only_grows(tmp_path):
    strategy = {"name": "opus-vfl", "epsilon_min": 10.0, "epsilon_max": 14.0, "step": 0.2}
    _, _, records = run(tmp_path, strategy=strategy, rounds=6, batch_size=128)
    for party in (1, 2, 3, 4):
        mine = [r["scores"] for r in records if r["client"] == party and "epsilon" in r["scores"]]
        epsilons = [one["epsilon"] for one in mine]
        assert all(10.0 <= e <= 14.0 for e in epsilons)
        assert len(set(epsilons)) > 1
        moves = [abs(a - b) for a, b in pairwise(epsilons)]
        assert max(moves) <= 0.2 * 4.0 + 1e-9
        totals = [one["total_epsilon"] for one in mine]
        assert totals == sorted(totals)
        assert totals[0] == pytest.approx(epsilons[0], rel=1e-3)


def test_a_party_with_negative_utility_leaves_after_the_warm_up(tmp_path):
    costs = (1.0, 10_000.0)
    strategy = {"name": "opus-vfl", "resource_costs": costs, "warmup": 2}
    _, rounds, records = run(tmp_path, strategy=strategy, rounds=3)
    present = {
        n: {r["client"] for r in records if r["round"] == n and r["accepted"]} for n in (1, 2, 3)
    }
    assert present[2] == {0, 1, 2, 3, 4}
    assert present[3] <= {0, 1, 3}
    assert rounds[3]["tokens"] == rounds[3]["budget"]
    reason = next(r["reason"] for r in records if r["round"] == 3 and r["client"] == 2)
    assert "utility" in reason


def test_resuming_gives_the_same_run(tmp_path):
    whole, _, records = run(tmp_path / "whole", rounds=4, batch_size=128)
    stopped = tmp_path / "stopped"

    def stop(record):
        if record["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Simulation(config(rounds=4, batch_size=128)).run(stopped, on_round=stop)
    resumed = Simulation(config(rounds=4, batch_size=128)).run(stopped, resume=True)
    assert resumed["model_sha256"] == whole["model_sha256"]
    assert [r["tokens"] for r in read_jsonl(stopped / "clients.jsonl")] == [
        r["tokens"] for r in records
    ]


def test_the_command_runs_and_the_saved_configuration_repeats_it(tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["--strategy", "opus-vfl", "--clients", "3", "--rounds", "2", "--json"]
    assert main([*flags, "--out", str(out)]) == 0
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert summary["clients"] == 3
    assert "tokens" in (out / "report.html").read_text(encoding="utf-8")
    again = parse(load_yaml(out / "config.yaml"))
    assert again.attack.name == "none"
    repeated = Simulation(again).run(tmp_path / "again")
    assert repeated["model_sha256"] == summary["model_sha256"]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"partition": "iid"}, "partition"),
        ({"pre": "nnm"}, "pre"),
        ({"attack": "sign-flip"}, "attack"),
        ({"fraction": 0.5}, "fraction"),
        ({"model": "cnn"}, "model"),
        ({"clients": 9}, "clients"),
        ({"clients": 1}, "clients"),
        ({"attack": {"name": "free-rider-party", "parties": [0]}}, "attack.parties"),
        ({"attack": {"name": "vertical-backdoor", "target": 10}}, "attack.target"),
        ({"strategy": {"name": "opus-vfl", "reward": "scoreshare"}}, "strategy.reward"),
        ({"strategy": {"name": "opus-vfl", "epsilon_min": 9.0, "epsilon_max": 1.0}}, "strategy."),
        ({"faults": {"dropout": 0.1}}, "faults"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(values, field):
    with pytest.raises(ConfigurationError) as caught:
        Simulation(config(**values))
    assert caught.value.field.startswith(field)
    assert "\n" not in str(caught.value)


def test_a_horizontal_run_refuses_a_vertical_attack():
    with pytest.raises(ConfigurationError, match="vertical strategy"):
        Simulation(parse({"strategy": "krum", "attack": "label-inference-passive"}))


def test_dispatch():
    assert isinstance(Simulation(config()).world, VerticalWorld)
    assert isinstance(Simulation(parse({"strategy": "fedavg", "clients": 4})), Simulation)


@pytest.mark.parametrize(
    ("name", "floor"), [("adult", 0.72), ("credit-default", 0.6), ("bank-marketing", 0.6)]
)
def test_the_tables_can_be_learnt(tmp_path, name, floor):
    folder = needs(name)
    dataset = {"name": name, "train_samples": 6000, "test_samples": 2000}
    summary, _, _ = run(
        tmp_path, strategy="vfl", dataset=dataset, data_dir=str(folder.parent), lr=0.02, clients=4
    )
    assert summary["partition"] == "columns"
    assert summary["final"]["macro_f1"] > floor  # always guessing "no" has at most 0.47


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_strips_of_images(tmp_path, name):
    folder = needs("torchvision")
    dataset = {"name": name, "train_samples": 1000, "test_samples": 500, "download": False}
    summary, _, _ = run(tmp_path, strategy="vfl", dataset=dataset, data_dir=str(folder), clients=3)
    assert summary["final"]["accuracy"] > 0.6
