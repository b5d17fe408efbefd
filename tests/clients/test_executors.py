from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedguard.clients.dense import chain_of
from fedguard.clients.executors import Cohort, ReuseExecutor
from fedguard.clients.planner import Plan, make_executor, plan
from fedguard.clients.vmap import why_not
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.models.cnn import Cnn
from fedguard.models.logistic import Logistic
from fedguard.models.mlp import Mlp
from fedguard.runs.simulation import Simulation

CLIENTS = 9
HARD = {"momentum": 0.9, "weight_decay": 0.01, "lr": 0.05, "local_epochs": 2, "batch_size": 7}


class Normalised(nn.Module):
    """A network with BatchNorm, whose statistics look at the whole batch."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(input_shape), 16)
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.norm(self.first(x.flatten(1)))))


class Forgetful(nn.Module):
    """A network with dropout."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(math.prod(input_shape), num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(x.flatten(1)))


class Stubborn(nn.Module):
    """A network that looks at its values, for which there is no batching rule."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(math.prod(input_shape), num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.last(x.flatten(1))
        return z * 2 if float(z.sum()) > 1e9 else z


def simulation(**values) -> Simulation:
    base = {"clients": CLIENTS, "attack": "none", "partition": {"name": "dirichlet", "alpha": 1.0}}
    return Simulation(parse({**base, **values}))


def train(made: Simulation, name: str, threads: int = 1, server_round: int = 1):
    executor = make_executor(Plan(name, "", threads), made.trainer)
    vector = made.server_model.whole_vector()
    deltas = torch.full((CLIENTS, made.trainer.layout.size), float("nan"))
    last = 0.01 * torch.ones_like(vector)
    cohort = Cohort(tuple(range(CLIENTS)), server_round, vector, attacking=True, last_update=last)
    trained = executor.train(cohort, deltas)
    executor.close()
    return deltas, trained


def check_same(made: Simulation, name: str) -> None:
    expected, told = train(made, "reuse")
    found, claimed = train(made, name)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert float(expected.abs().max()) > 0.01
    assert torch.equal(told.examples, claimed.examples)
    assert claimed.losses == pytest.approx(told.losses, abs=1e-4)


@pytest.mark.parametrize("name", ["vmap", "dense"])
@pytest.mark.parametrize("model", ["logistic", "mlp", {"name": "mlp", "hidden": [20, 12]}])
@pytest.mark.parametrize("settings", [{}, HARD], ids=["plain", "momentum and decay"])
def test_batched_training_equals_one_by_one(name, model, settings):
    made = simulation(model=model, **settings)
    sizes = {len(shard) for shard in made.federation.shards}
    assert len(sizes) > 3
    assert any(size % made.config.batch_size for size in sizes)
    check_same(made, name)


@pytest.mark.parametrize("attack", ["label-flip", "pgd", "neurotoxin", "feature-noise"])
def test_poisoned_clients_are_batched_or_left_to_reuse(attack):
    made = simulation(attack=attack, malicious=0.34)
    quiet = simulation()
    check_same(made, "dense")
    liar = min(made.federation.malicious)
    assert not torch.equal(train(made, "dense")[0][liar], train(quiet, "dense")[0][liar])


def test_layer_norm_and_batch_norm():
    check_same(simulation(model={"name": "mlp", "layer_norm": True}), "vmap")
    made = simulation(model=f"{__name__}:Normalised", partition="iid", batch_size=8)
    assert why_not(made.trainer) is None
    check_same(made, "vmap")
    deltas, _ = train(made, "vmap")
    counted = made.trainer.layout.unflatten(deltas[0])["norm.num_batches_tracked"]
    assert float(counted) > 0


class SmallCnn(Cnn):
    """The small network, still smaller."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(input_shape, num_classes, channels=(4, 4), hidden=8)


def test_a_convolutional_network():
    check_same(simulation(model=f"{__name__}:SmallCnn", local_epochs=1), "vmap")


@pytest.mark.parametrize("name", ["reuse", "dense", "vmap"])
def test_threads_change_no_bit(name):
    made = simulation(**HARD, attack="pgd", malicious=0.34)
    alone, _ = train(made, name)
    together, _ = train(made, name, threads=3)
    assert torch.equal(alone, together)


def test_intraop_threads_change_no_bit():
    made = simulation()
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(train(made, "reuse")[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_a_clients_training_does_not_depend_on_its_group():
    made = simulation()
    everyone, _ = train(made, "dense")
    executor = make_executor(Plan("dense", ""), made.trainer)
    alone = torch.empty(2, made.trainer.layout.size)
    executor.train(Cohort((5, 2), 1, made.server_model.whole_vector(), attacking=True), alone)
    torch.testing.assert_close(alone, everyone[[5, 2]], atol=1e-6, rtol=0)


def test_settings_that_change_between_rounds_are_followed():
    made = simulation()
    one, _ = train(made, "dense")
    made.trainer.settings = replace(made.trainer.settings, local_epochs=1)
    check_same(made, "dense")
    assert not torch.equal(one, train(made, "dense")[0])


def test_accuracy_over_ten_rounds_is_the_same(tmp_path):
    found = {}
    for name in ("reuse", "dense", "vmap"):
        made = simulation(executor=name, rounds=10, strategy="fedavg", partition="iid")
        summary = made.run(tmp_path / name)
        assert summary["executor"] == name
        found[name] = summary["final"]["accuracy"]
    assert found["reuse"] > 0.9
    assert found["dense"] == pytest.approx(found["reuse"], abs=0.003)
    assert found["vmap"] == pytest.approx(found["reuse"], abs=0.003)


def test_the_plan_is_a_rule_and_says_why():
    assert plan(parse({}), simulation().trainer).executor == "dense"
    few = simulation(clients=3)
    assert plan(few.config, few.trainer).executor == "reuse"
    made = simulation(model=f"{__name__}:SmallCnn")
    chosen = plan(made.config, made.trainer)
    assert (chosen.executor, "convolutions" in chosen.reason) == ("conv", True)
    for model, words in (("Forgetful", "random numbers"), ("Stubborn", "no batching rule")):
        made = simulation(model=f"{__name__}:{model}", executor="vmap")
        chosen = plan(made.config, made.trainer)
        assert chosen.executor == "reuse"
        assert words in chosen.reason


def test_dropout_repeats_and_leaves_the_global_state_alone():
    made = simulation(model=f"{__name__}:Forgetful")
    before = torch.get_rng_state()
    first, _ = train(made, "reuse")
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    again, _ = train(made, "reuse", threads=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, train(made, "reuse", server_round=2)[0])


def test_a_measured_choice_is_kept_on_resuming(tmp_path, monkeypatch):
    made = simulation(executor="timed", rounds=2, strategy="fedavg")
    first = made.run(tmp_path)
    assert first["executor"] in ("reuse", "vmap", "dense", "conv")
    text = (tmp_path / "config.yaml").read_text()
    assert f"executor: {first['executor']}\n" in text
    monkeypatch.setattr("fedguard.clients.planner._timed", None)
    again = simulation(executor="timed", rounds=2, strategy="fedavg").run(tmp_path, resume=True)
    assert again["executor"] == first["executor"]
    assert again["model_sha256"] == first["model_sha256"]


def test_chains_are_recognised():
    assert [layer.relu for layer in chain_of(Logistic((4,), 3)) or ()] == [False]
    assert [layer.relu for layer in chain_of(Mlp((4,), 3, hidden=(5, 6))) or ()] == [
        True,
        True,
        False,
    ]
    assert chain_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))) is not None
    assert chain_of(Mlp((4,), 3, layer_norm=True)) is None
    assert chain_of(nn.Sequential(nn.Linear(4, 3), nn.ReLU())) is None
    assert chain_of(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))) is None
    shared = nn.Linear(4, 4)
    assert chain_of(nn.Sequential(shared, nn.ReLU(), shared)) is None
    assert chain_of(Stubborn((4,), 3)) is None


def test_the_first_error_of_a_thread_is_raised():
    made = simulation()
    executor = ReuseExecutor(made.trainer, threads=2)
    vector = made.server_model.whole_vector()
    with pytest.raises(IndexError):
        executor.train(Cohort((0, 1, 99), 1, vector), torch.empty(3, len(vector)))
    executor.close()


def test_unknown_executors_are_refused_in_one_line():
    with pytest.raises(ConfigurationError, match="executor") as error:
        parse({"executor": "vmaps"})
    assert "vmap" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigurationError, match="executor"):
        parse({"engine": "flower", "executor": "vmap"})
    with pytest.raises(ConfigurationError, match="workers"):
        parse({"workers": 0})
