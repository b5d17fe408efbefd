from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from flwr.app import Array, MessageType
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr.serverapp.strategy import FedTrimmedAvg
from safetensors.torch import load_file

from fedguard import registry
from fedguard.config import SimulationConfig, parse
from fedguard.errors import ConfigurationError, RunError
from fedguard.grids.base import WrappedGrid
from fedguard.grids.inprocess import InProcessGrid
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

SMALL = {
    "clients": 8,
    "malicious": 0.25,
    "rounds": 2,
    "local_epochs": 1,
    "partition": "iid",
    "server_samples": 40,
}


def config(**values) -> SimulationConfig:
    return parse({**SMALL, **values})


def run(out: Path, **values) -> dict:
    return Simulation(config(**values)).run(out)


class TestRunDirectory:
    def test_every_file_holds_what_it_should(self, tmp_path):
        summary = run(tmp_path, strategy="multi-krum", attack={"name": "badnets", "size": 2})
        rounds = read_jsonl(tmp_path / "rounds.jsonl")
        clients = read_jsonl(tmp_path / "clients.jsonl")
        threat = json.loads((tmp_path / "threat_model.json").read_text())
        assert [record["round"] for record in rounds] == [0, 1, 2]
        assert set(rounds[1]) >= {
            "round",
            "accuracy",
            "loss",
            "attack_success_rate",
            "accepted",
            "rejected",
            "true_positive_rate",
            "false_positive_rate",
            "seconds",
        }
        assert len(clients) == 2 * 8
        for record in clients:
            assert set(record) >= {
                "round",
                "client",
                "malicious",
                "accepted",
                "weight",
                "num_examples",
                "scores",
                "reason",
            }
            assert record["accepted"] == (record["weight"] > 0)
            assert (record["reason"] is not None) == (not record["accepted"])
            assert "krum_score" in record["scores"]
        liars = {record["client"] for record in clients if record["malicious"]}
        assert sorted(liars) == summary["malicious_clients"]
        assert len(liars) == summary["malicious"] == 2
        assert set(threat) == {"attacker", "defence", "measured"}
        assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(
            json.dumps(summary)
        )
        assert {"config.yaml", "model.safetensors", "checkpoint"} <= {
            path.name for path in tmp_path.iterdir()
        }
        assert rounds[2]["accuracy"] == summary["final"]["accuracy"]

    def test_detection_rates_follow_from_the_client_records(self, tmp_path):
        run(tmp_path, strategy="multi-krum")
        clients = read_jsonl(tmp_path / "clients.jsonl")
        for record in read_jsonl(tmp_path / "rounds.jsonl")[1:]:
            mine = [c for c in clients if c["round"] == record["round"]]
            liars = [c for c in mine if c["malicious"]]
            honest = [c for c in mine if not c["malicious"]]
            share = sum(not c["accepted"] for c in liars) / len(liars)
            assert record["true_positive_rate"] == pytest.approx(share)
            share = sum(not c["accepted"] for c in honest) / len(honest)
            assert record["false_positive_rate"] == pytest.approx(share)
            assert record["accepted"] + record["rejected"] == len(mine)

    def test_the_written_configuration_repeats_the_run(self, tmp_path):
        from fedguard.config import load_yaml

        first = run(tmp_path / "a", strategy="krum", seed=3)
        again = Simulation(parse(load_yaml(tmp_path / "a" / "config.yaml"))).run(tmp_path / "b")
        assert first["model_sha256"] == again["model_sha256"]

    def test_the_model_file_holds_the_named_parameters(self, tmp_path):
        run(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        state = Simulation(config()).model.state_dict()
        assert {name: value.shape for name, value in tensors.items()} == {
            name: value.shape for name, value in state.items()
        }


class TestRepeatability:
    @pytest.mark.parametrize("strategy", ["fedavg", "geminiguard"])
    def test_twice_the_same_is_bit_identical(self, tmp_path, strategy):
        first = run(tmp_path / "a", strategy=strategy, fraction=0.75)
        torch.rand(3)  # a global random state that differs must not matter
        second = run(tmp_path / "b", strategy=strategy, fraction=0.75)
        assert first["model_sha256"] == second["model_sha256"]
        assert first["final"]["accuracy"] == second["final"]["accuracy"]

    def test_another_seed_is_another_run(self, tmp_path):
        assert run(tmp_path / "a")["model_sha256"] != run(tmp_path / "b", seed=1)["model_sha256"]

    def test_attackers_sit_at_seeded_places(self):
        draws = {
            tuple(sorted(Simulation(config(seed=seed)).federation.malicious)) for seed in range(6)
        }
        assert len(draws) > 3

    @pytest.mark.parametrize("strategy", ["geminiguard", "fldetector"])
    @pytest.mark.parametrize("attack", ["sign-flip", "neurotoxin", "a3fl"])
    def test_resuming_after_a_stop_between_rounds(self, tmp_path, strategy, attack):
        attack = {"name": attack, "steps": 2, "size": 2} if attack == "a3fl" else attack
        values = {"strategy": strategy, "attack": attack, "rounds": 4}
        whole = run(tmp_path / "whole", **values)

        class StopError(Exception):
            pass

        def stop(record: dict) -> None:
            if record["round"] == 2:
                raise StopError

        with pytest.raises(StopError):
            Simulation(config(**values)).run(tmp_path / "cut", on_round=stop)
        resumed = Simulation(config(**values)).run(tmp_path / "cut", resume=True)
        assert resumed["model_sha256"] == whole["model_sha256"]
        for name in ("rounds.jsonl", "clients.jsonl"):
            before, after = (read_jsonl(tmp_path / d / name) for d in ("whole", "cut"))
            for record in (*before, *after):
                record.pop("seconds", None)
            assert before == after

    def test_resuming_after_kill_minus_nine(self, tmp_path):
        arguments = ["--strategy", "geminiguard", "--rounds", "12", "--seed", "5"]
        command = [sys.executable, "-m", "fedguard.simulate", *arguments]
        whole = subprocess.run(
            [*command, "--out", str(tmp_path / "whole"), "--json"],
            check=True,
            capture_output=True,
            text=True,
        )
        cut = tmp_path / "cut"
        process = subprocess.Popen([*command, "--out", str(cut)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not list((cut / "checkpoint").glob("round-00000[3-9]*")):
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (cut / "summary.json").exists()
        resumed = subprocess.run(
            [*command, "--out", str(cut), "--resume", "--json"],
            check=True,
            capture_output=True,
            text=True,
        )
        hashes = {
            json.loads(result.stdout.splitlines()[-1])["model_sha256"]
            for result in (whole, resumed)
        }
        assert len(hashes) == 1


class BrokenClients(WrappedGrid):
    """Clients 0 to 9 reply with something broken each; the others reply as they should."""

    def send_and_receive(self, messages, *, timeout=None):
        replies = list(self.inner.send_and_receive(messages, timeout=timeout))
        if replies and replies[0].metadata.message_type != MessageType.TRAIN:
            return replies
        out = []
        for reply in replies:
            broken = self.broken(reply.metadata.src_node_id, reply)
            out.extend(broken)
        return out

    @staticmethod
    def broken(node, reply):
        arrays = next(iter(reply.content.array_records.values()))
        metrics = next(iter(reply.content.metric_records.values()))
        name = next(iter(arrays))
        values = arrays[name].numpy().copy()
        numbers = {0: math.nan, 1: math.inf, 2: 1e30}
        if node in numbers:
            values.flat[0] = numbers[node]
            arrays[name] = Array(values)
        claims = {3: 10**18, 4: 0, 5: -5, 6: math.nan}
        if node in claims:
            metrics["num-examples"] = claims[node]
        if node == 7:
            arrays[name] = Array(values[:1])
        if node == 8:
            del arrays[name]
        return [] if node == 9 else [reply, reply] if node == 10 else [reply]


@pytest.mark.parametrize("strategy", registry.names("strategy"))
def test_no_reply_breaks_any_strategy(tmp_path, strategy):
    values = {"strategy": strategy, "clients": 20, "rounds": 2, "server_samples": 60}
    if strategy == "bnguard":  # which refuses a network without BatchNorm
        values["model"] = "conv-bn"
    simulation = Simulation(config(attack="none", **values))
    grid = BrokenClients(InProcessGrid(simulation.trainer))
    summary = simulation.run(tmp_path, grid=grid)
    assert math.isfinite(summary["final"]["loss"])
    for tensor in load_file(tmp_path / "model.safetensors").values():
        assert torch.isfinite(tensor).all()
    last = {c["client"]: c for c in read_jsonl(tmp_path / "clients.jsonl") if c["round"] == 2}
    assert len(last) == 20
    words = {
        0: "NaN",
        1: "infinite",
        2: "1.0e+30",
        3: "num-examples of 1e+18",
        4: "num-examples of 0",
        5: "num-examples of -5",
        6: "num-examples of nan",
        7: "shape",
        8: "missing array",
        9: "no reply",
    }
    for client, word in words.items():
        assert not last[client]["accepted"]
        assert word in last[client]["reason"]


class TestOtherStrategies:
    @pytest.mark.parametrize(
        "path",
        [
            "flwr.serverapp.strategy:FedAvg",
            "flwr.serverapp.strategy:FedTrimmedAvg",
            "flwr.serverapp.strategy:Krum",
            "flwr.serverapp.strategy:FedAdam",
        ],
    )
    def test_flowers_own_run_unchanged_and_repeat(self, tmp_path, path):
        first = run(tmp_path / "a", strategy=path, fraction=0.75)
        second = run(tmp_path / "b", strategy=path, fraction=0.75)
        assert first["model_sha256"] == second["model_sha256"]
        assert math.isfinite(first["final"]["loss"])

    def test_flowers_fedavg_gives_what_ours_gives(self, tmp_path):
        values = {"attack": "none", "rounds": 2}
        run(tmp_path / "ours", strategy="fedavg", **values)
        run(tmp_path / "theirs", strategy="flwr.serverapp.strategy:FedAvg", **values)
        ours, theirs = (load_file(tmp_path / d / "model.safetensors") for d in ("ours", "theirs"))
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], atol=1e-5, rtol=1e-5)

    def test_a_strategy_that_has_never_heard_of_fedguard(self, tmp_path):
        summary = run(tmp_path, strategy=f"{__name__}:Stranger")
        assert summary["strategy"].endswith(":Stranger")
        assert summary["final"]["accuracy"] > 0.3
        records = read_jsonl(tmp_path / "clients.jsonl")
        assert records
        assert all(record["accepted"] is None for record in records)

    def test_a_strategy_that_raises_ends_the_run_in_one_line(self, tmp_path):
        with pytest.raises(RunError, match="Fragile failed in round 1: ValueError: no"):
            run(tmp_path, strategy=f"{__name__}:Fragile")


class Stranger(FedTrimmedAvg):
    """A user's own strategy on Flower's interface alone."""

    def __init__(self) -> None:
        super().__init__(fraction_evaluate=0.0, beta=0.25)


class Fragile(FlowerFedAvg):
    def aggregate_train(self, server_round, replies):
        raise ValueError("no")


class TestBeforeTheFirstRound:
    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"dataset": "mnist", "data_dir": "/no/such/place"}, "data_dir"),
            ({"server_samples": 10**6}, "server_samples"),
            ({"strategy": "geminiguard", "server_samples": 0}, "server_samples: 0"),
            ({"clients": 5000}, "clients"),
            ({"latent_layer": "hiden"}, "latent_layer"),
            ({"attack": {"name": "badnets", "target_class": 10}}, "attack.target_class"),
            ({"attack_rounds": {"window": [5]}}, "attack_rounds"),
            ({"pre": "nnm", "strategy": f"{__name__}:Stranger"}, "pre"),
            ({"attack": "adaptive-ipm", "strategy": f"{__name__}:Stranger"}, "attack"),
            ({"device": "cuda:63"}, "device"),
            ({"strategy": "builtins:dict"}, "strategy"),
        ],
    )
    def test_what_does_not_fit_is_named(self, values, words):
        if values.get("dataset") == "mnist":
            values["dataset"] = {"name": "mnist", "download": False}
        with pytest.raises(ConfigurationError) as caught:
            Simulation(config(**values))
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


class TestSchedules:
    def test_outside_its_window_the_coalition_is_honest(self, tmp_path):
        quiet = run(tmp_path / "quiet", strategy="fedavg", attack_rounds={"single": 99})
        honest = run(tmp_path / "honest", strategy="fedavg", attack="none")
        loud = run(tmp_path / "loud", strategy="fedavg", attack_rounds={"single": 2})
        assert quiet["model_sha256"] == honest["model_sha256"] != loud["model_sha256"]


class TestNoOracle:
    def test_a_defence_decides_the_same_whoever_is_malicious(self, tmp_path):
        """Honest behaviour of marked clients: the mark alone must change nothing."""
        marked = run(tmp_path / "marked", attack="none", malicious=0.25)
        plain = run(tmp_path / "plain", attack="none", malicious=0.0)
        assert marked["model_sha256"] == plain["model_sha256"]

    def test_strategies_and_attacks_do_not_import_what_they_must_not(self):
        root = Path(__file__).resolve().parents[2] / "fedguard"
        forbidden = {
            "strategies": ("simulation", "grids", "reporting", "attacks", "metrics.detection"),
            "attacks": ("simulation", "grids", "reporting", "strategies"),
        }
        for room, others in forbidden.items():
            for path in (root / room).glob("*.py"):
                text = path.read_text()
                for other in others:
                    assert f"fedguard.{other}" not in text, f"{path} imports {other}"


def test_what_a_strategy_leaves_out_stands_in_the_summary(tmp_path):
    """Digits are too small for the usual patch: nobody is to believe that one was looked for."""
    told = "no search for backdoor patches: trigger_budget below 0.04"
    assert told in run(tmp_path / "a", strategy="geminiguard", rounds=1)["notes"]
    wide = {"name": "geminiguard", "trigger_budget": 0.04}
    assert told not in run(tmp_path / "b", strategy=wide, rounds=1)["notes"]
