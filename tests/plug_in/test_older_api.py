"""Flower's older API, both ways: `client_fn` and `NumPyClient`, and `flwr.server.strategy`."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message, MessageType, RecordDict
from safetensors.torch import load_file

from fedguard import simulate
from fedguard.assembly.plain_state import give_back_state, keep_state
from fedguard.assembly.strategy import create_strategy
from fedguard.config import parse
from fedguard.errors import ConfigurationError, RunError
from fedguard.grids.foreign_app import ClientAppGrid, find_client_app
from fedguard.layout import ParameterLayout
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from tests.plug_in.older_apps import FlowerClient, logistic

WORLD = {
    "model": "logistic",
    "clients": 6,
    "malicious": 0.0,
    "rounds": 3,
    "strategy": "fedavg",
    "server_samples": 0,
    "lr": 0.5,
    "local_epochs": 2,
}
OLDER = "tests.plug_in.older_apps"


def run(out, **more):
    return Simulation(parse({**WORLD, **more})).run(out)


def by_hand(rounds=3, lr=0.5):
    """Federated averaging of the older clients, written without Flower."""
    from fedguard.assembly.make import load_dataset, make_model

    config = parse(WORLD)
    state = make_model(config, load_dataset(config)).state_dict()
    model = [value.numpy() for value in state.values()]
    sizes = []
    for _ in range(rounds):
        sums, total = [np.zeros_like(value) for value in model], 0
        for client in range(6):
            own, count, _ = FlowerClient(client, 6).fit(model, {"lr": lr, "local_epochs": 2})
            sums = [s + count * value for s, value in zip(sums, own, strict=True)]
            total += count
        model = [s / total for s in sums]
        sizes.append(total)
    return dict(zip(state, model, strict=True))


@pytest.mark.parametrize("name", ["app", "client_fn", "by_cid"])
@pytest.mark.parametrize("strategy", ["fedavg", "flwr.server.strategy:FedAvg"])
def test_every_form_of_an_older_app_trains_as_by_hand(name, strategy, tmp_path):
    run(tmp_path, client_app=f"{OLDER}:{name}", strategy=strategy)
    found = load_file(tmp_path / "model.safetensors")
    for key, value in by_hand().items():
        np.testing.assert_allclose(found[key].numpy(), value, atol=1e-5)


def test_the_message_says_what_quickstart_clients_read_and_ours_wins(tmp_path):
    run(tmp_path, client_app=f"{OLDER}:app", client_config={"lr": 0.0}, rounds=1)
    rounds = read_jsonl(tmp_path / "rounds.jsonl")
    assert rounds[1]["accuracy"] == rounds[0]["accuracy"]
    assert rounds[1]["failed"] == 0


def test_an_older_client_evaluates_and_its_class_may_make_itself():
    app = find_client_app(f"{OLDER}:ByItself")
    grid = ClientAppGrid(app, 6, {})
    arrays = ParameterLayout.from_module(logistic()).to_arrays(torch.zeros(650))
    message = Message(
        RecordDict({"arrays": arrays}), dst_node_id=0, message_type=MessageType.EVALUATE
    )
    (reply,) = grid.send_and_receive([message])
    metrics = reply.content["metrics"]
    assert metrics["loss"] == pytest.approx(np.log(10), rel=1e-6)
    assert metrics["num-examples"] == 300
    assert set(metrics) == {"loss", "num-examples", "accuracy"}


def test_a_client_that_fails_says_why():
    grid = ClientAppGrid(find_client_app(f"{OLDER}:client_fn"), 6, {})
    arrays = ParameterLayout.from_module(logistic()).to_arrays(torch.zeros(650))
    message = Message(RecordDict({"arrays": arrays}), dst_node_id=0, message_type=MessageType.TRAIN)
    (reply,) = grid.send_and_receive([message])
    assert reply.error.reason == "KeyError: 'lr'"


OLDER_STRATEGIES = [
    "flwr.server.strategy:FedAvg",
    "flwr.server.strategy:FedAvgM",
    "flwr.server.strategy:FedAdam",
    "flwr.server.strategy:FedYogi",
    "flwr.server.strategy:FedMedian",
    "flwr.server.strategy:FedTrimmedAvg",
    "flwr.server.strategy:Krum",
    f"{OLDER}:MomentumAvg",
]


@pytest.mark.parametrize("strategy", OLDER_STRATEGIES)
def test_older_strategies_train_fedguards_own_clients(strategy, tmp_path):
    summary = run(tmp_path, strategy=strategy, clients=8)
    rounds = read_jsonl(tmp_path / "rounds.jsonl")
    assert summary["final"]["accuracy"] > rounds[0]["accuracy"] + 0.2
    assert rounds[-1]["failed"] == 0


def test_older_averaging_is_todays_to_rounding(tmp_path):
    run(tmp_path / "older", strategy="flwr.server.strategy:FedAvg")
    run(tmp_path / "todays")
    older, todays = (load_file(tmp_path / d / "model.safetensors") for d in ("older", "todays"))
    for name, value in todays.items():
        torch.testing.assert_close(older[name], value, atol=1e-5, rtol=0)


class StopError(Exception):
    pass


def cut_after(rounds):
    def stop(record):
        if record["round"] == rounds:
            raise StopError

    return stop


@pytest.mark.parametrize(
    "strategy",
    [
        "flwr.serverapp.strategy:FedAdam",
        "flwr.serverapp.strategy:FedYogi",
        "flwr.serverapp.strategy:FedAvgM",
        "flwr.server.strategy:FedAdam",
        f"{OLDER}:MomentumAvg",
    ],
)
def test_a_resumed_run_ends_bit_for_bit_where_the_whole_one_does(strategy, tmp_path):
    config = parse({**WORLD, "strategy": strategy, "rounds": 4})
    Simulation(config).run(tmp_path / "whole")
    with pytest.raises(StopError):
        Simulation(config).run(tmp_path / "cut", on_round=cut_after(2))
    Simulation(config).run(tmp_path / "cut", resume=True)
    whole, cut = (load_file(tmp_path / d / "model.safetensors") for d in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_what_cannot_be_kept_is_named_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="flwr"):
        run(tmp_path, strategy=f"{OLDER}:Forgetful")
    told = [record.getMessage() for record in caplog.records if "--resume" in record.getMessage()]
    assert len(told) == 1
    assert "inner.journal is a TextIOWrapper" in told[0]


class Keeper:
    """Attributes of every kind."""

    def __init__(self) -> None:
        self.array = np.array([[1.5, -0.0], [np.inf, np.nan]])
        self.half = np.float16(0.1)
        self.tensor = torch.arange(3, dtype=torch.int64)
        self.by_name = {"m": [np.ones(2, np.float32), (1, None, "a")], 3: {True}}
        self.blob = b"\x00\xff"
        self.number = 0.1 + 0.2
        self.score = np.array(["text"])
        self.function = len


def test_state_comes_back_to_the_bit_and_the_rest_is_named():
    given = Keeper()
    tensors, lost = keep_state(given)
    assert lost == {"score": "ndarray"}
    other = Keeper()
    vars(other).update(dict.fromkeys(vars(other)), score=other.score, function=other.function)
    give_back_state(other, tensors)
    assert other.array.tobytes() == given.array.tobytes()
    assert other.half == given.half
    assert other.half.dtype == np.float16
    assert torch.equal(other.tensor, given.tensor)
    assert other.by_name["m"][1] == (1, None, "a")
    assert other.by_name["m"][0].dtype == np.float32
    assert other.by_name[3] == {True}
    assert (other.blob, other.number, other.function) == (given.blob, given.number, len)


@pytest.mark.parametrize(
    ("strategy", "cohort", "assumed"),
    [
        ("flwr.serverapp.strategy:Krum", 20, 4),
        ("flwr.serverapp.strategy:MultiKrum", 8, 1),
        ("flwr.serverapp.strategy:Bulyan", 20, 4),
        ("flwr.server.strategy:Krum", 20, 4),
    ],
)
def test_flowers_robust_rules_assume_what_the_run_assumes(strategy, cohort, assumed):
    made = create_strategy(parse({**WORLD, "strategy": strategy, "clients": cohort}))
    inner = getattr(made, "inner", made)
    found = {name: value for name, value in vars(inner).items() if name.startswith("num_malicious")}
    assert list(found.values()) == [assumed]
    own = {"name": strategy, next(iter(found)): 2}
    again = create_strategy(parse({**WORLD, "strategy": own, "clients": cohort}))
    assert getattr(getattr(again, "inner", again), next(iter(found))) == 2


def test_flowers_bulyan_stands_where_it_assumed_nobody(tmp_path):
    """One of 8 clients lies; with num_malicious_nodes=0 the model would be thrown."""
    bad = {"clients": 8, "malicious": 0.125, "attack": {"name": "sign-flip", "scale": 20.0}}
    good = run(tmp_path / "good", strategy="flwr.serverapp.strategy:Bulyan", **bad)
    none = {"name": "flwr.serverapp.strategy:Bulyan", "num_malicious_nodes": 0}
    worse = run(tmp_path / "none", strategy=none, **bad)
    assert good["final"]["accuracy"] > worse["final"]["accuracy"] + 0.1


def test_a_wrapper_takes_the_strategy_that_it_wraps_by_name(tmp_path):
    wrapper = "flwr.serverapp.strategy:DifferentialPrivacyServerSideFixedClipping"
    arguments = {"noise_multiplier": 0.0, "clipping_norm": 100.0, "num_sampled_clients": 6}
    inner = "flwr.serverapp.strategy:FedAvg"
    wrapped = {"name": wrapper, "strategy": inner, **arguments}
    summary = run(tmp_path, strategy=wrapped)
    rounds = read_jsonl(tmp_path / "rounds.jsonl")
    assert summary["final"]["accuracy"] > rounds[0]["accuracy"] + 0.2
    with pytest.raises(ConfigurationError, match="strategy"):
        create_strategy(parse({**WORLD, "strategy": {**wrapped, "clipping_norm": -1.0}}))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"strategy": f"{OLDER}:OwnLoop"}, "has its own"),
        ({"client_config": {"lrr": 0.1}}, "client_config"),
    ],
)
def test_what_would_be_passed_over_in_silence_is_refused(values, says):
    with pytest.raises(ConfigurationError, match=says):
        Simulation(parse({**WORLD, **values}))


def test_a_strategy_that_makes_no_model_is_reported_and_no_run_is_called_done(tmp_path):
    """Bulyan with more attackers than its clients allow returns nothing, round after round."""
    none = {"name": "flwr.serverapp.strategy:Bulyan", "num_malicious_nodes": 3}
    with pytest.raises(RunError, match="Bulyan made no new model"):
        run(tmp_path, strategy=none)
    (first, *_) = read_jsonl(tmp_path / "clients.jsonl")
    assert first["outcome"] == "failed"


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        (f"{OLDER}:Tired", "FromLegacy(Tired) failed in round 2: ZeroDivisionError: two lines"),
        ("flwr.serverapp.strategy:FedXgbBagging", "FedXgbBagging failed in round 1"),
        ("flwr.server.strategy:FedXgbBagging", ""),
    ],
)
def test_errors_of_a_strangers_strategy_are_one_line(strategy, says, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    command = ["--strategy", strategy, "--clients", "4", "--rounds", "2", "--model", "logistic"]
    code = simulate.main([*command, "--attack", "none", "--out", str(tmp_path / "run")])
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fedguard: ")]
    assert code in (1, 2)
    assert len(told) == 1
    assert says in told[0]
