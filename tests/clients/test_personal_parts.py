"""Personal parts: what stays with a client stays there, and what is shared is averaged."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedguard import simulate
from fedguard.clients.personal import OWN, PersonalParts
from fedguard.clients.planner import plan
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.layout import ParameterLayout
from fedguard.randomness import generator
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.training.adam import Adam
from fedguard.training.base import TrainingSettings
from fedguard.training.fedbn import FedBn
from fedguard.training.fedper import FedPer
from fedguard.training.sgd import Sgd
from tests.clients.small_federations import Chain, make_trainer, train_round

NORMED = "tests.clients.test_personal_parts:Normed"
SETTINGS = TrainingSettings(0.1, 0.5, 0.01, 2, 4)


class Normed(nn.Module):
    """A network with BatchNorm, buffers and an integer among them."""

    def __init__(self, input_shape=(6,), num_classes=3) -> None:
        super().__init__()
        features = int(torch.tensor(input_shape).prod())
        self.first = nn.Linear(features, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.first(x.flatten(1)))))


def seeded(make):
    torch.manual_seed(3)
    return make()


def own_sgd(module, trainer, client, private, first, shared, rounds=1):
    """PyTorch's own SGD, round after round from `shared`, with the private tensors kept."""
    kept = {name: first[name].clone() for name in private}
    for server_round in range(1, rounds + 1):
        module.load_state_dict({**first, **shared[server_round - 1], **kept})
        module.train()
        optimiser = torch.optim.SGD(module.parameters(), 0.1, momentum=0.5, weight_decay=0.01)
        stream = generator(0, server_round, client, "batches")
        rows = trainer.federation.shards[client]
        for _ in range(2):
            order = rows[torch.randperm(len(rows), generator=stream)]
            for part in torch.split(order, 4):
                if len(part) < trainer.least:
                    continue
                optimiser.zero_grad()
                x, y = trainer.federation.dataset.x_train, trainer.federation.dataset.y_train
                nn.functional.cross_entropy(module(x[part]), y[part]).backward()
                optimiser.step()
        state = {name: value.detach().clone() for name, value in module.state_dict().items()}
        kept = {name: state[name] for name in private}
    return state


@pytest.mark.parametrize(
    ("rule", "private"),
    [
        (FedPer(), {"head.weight", "head.bias"}),
        (FedPer(personal=("norm.*", "first.bias")), None),
        (
            FedBn(),
            {
                "norm.weight",
                "norm.bias",
                "norm.running_mean",
                "norm.running_var",
                "norm.num_batches_tracked",
            },
        ),
    ],
)
def test_two_rounds_are_those_of_pytorch_with_the_private_tensors_kept(rule, private):
    module = seeded(Normed)
    private = private or {name for name in module.state_dict() if name[:4] == "norm"} | {
        "first.bias"
    }
    first = {name: value.detach().clone() for name, value in module.state_dict().items()}
    trainer = make_trainer(module, SETTINGS, rule)
    assert set(trainer.layout.names) == set(first) - private
    start = trainer.global_vector()
    one, _ = train_round(trainer, vector=start)
    second = start + one.mean(dim=0)
    two, _ = train_round(trainer, vector=second, server_round=2)
    shared = [trainer.layout.unflatten(vector) for vector in (start, second)]
    for client in (0, 3):
        expected = own_sgd(seeded(Normed), trainer, client, private, first, shared, rounds=2)
        found = trainer.layout.unflatten(second + two[client])
        for name in trainer.layout.names:
            torch.testing.assert_close(
                found[name], expected[name].float(), atol=1e-5, rtol=1e-4, msg=name
            )
        kept = trainer.personal.named(trainer.memories[client][OWN])
        assert kept.keys() == private
        for name in private:
            torch.testing.assert_close(kept[name], expected[name].float(), atol=1e-5, rtol=1e-4)


def test_clients_own_parts_differ_and_leave_no_trace_in_each_other():
    alone = make_trainer(Chain(), SETTINGS, FedPer())
    start = alone.global_vector()
    out = torch.empty_like(start)
    alone.train(3, 1, start, out)
    all_of_them = make_trainer(Chain(), SETTINGS, FedPer())
    deltas, _ = train_round(all_of_them, vector=start)
    assert torch.equal(deltas[3], out)
    assert torch.equal(all_of_them.memories[3][OWN], alone.memories[3][OWN])
    assert not torch.equal(all_of_them.memories[3][OWN], all_of_them.memories[0][OWN])


def test_a_batched_executor_is_not_planned():
    trainer = make_trainer(Chain(), SETTINGS, FedPer())
    found = plan(parse({"clients": 5, "executor": "dense"}), trainer)
    assert found.executor == "reuse"
    assert "stays with each client" in found.reason


def test_other_optimisers_take_personal_parts_too():
    trainer = make_trainer(Chain(), SETTINGS, Adam(personal="last.*", keep=True))
    assert trainer.rule.remembers
    train_round(trainer, vector=trainer.global_vector())
    assert set(trainer.memories[0]) == {"adam.m", "adam.v", "adam.steps", OWN}


def test_parts_are_put_together_as_they_were_taken_apart():
    layout = ParameterLayout.from_module(Normed())
    parts = PersonalParts(layout, frozenset({"norm.running_mean", "first.weight"}))
    vector = torch.arange(float(layout.size))
    assert torch.equal(parts.whole(parts.shared_of(vector), parts.own_of(vector)), vector)
    assert parts.shared.num_trainable == layout.num_trainable - 48
    assert parts.shared.size + len(parts.own_of(vector)) == layout.size


@pytest.mark.parametrize(
    ("rule", "field"),
    [(Sgd(personal="haed.*"), "training.personal"), (FedBn(), "training")],
)
def test_what_names_no_tensor_is_refused(rule, field):
    with pytest.raises(ConfigurationError) as caught:
        make_trainer(Chain(), SETTINGS, rule)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "more",
    [["--set", "training.personal=*"], ["--training", "fedbn"]],
    ids=["nothing left to share", "no BatchNorm"],
)
def test_it_is_refused_in_one_line_before_round_1(more, capsys, tmp_path):
    command = ["--clients", "4", "--training", "fedper", *more, "--out", str(tmp_path / "run")]
    assert simulate.main(command) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


WORLD = {
    "clients": 6,
    "malicious": 0.17,
    "rounds": 3,
    "local_epochs": 1,
    "strategy": "multi-krum",
    "partition": {"name": "dirichlet", "alpha": 0.1},
}


@pytest.mark.parametrize(
    ("training", "model"),
    [("fedper", "mlp"), ("fedbn", NORMED)],
)
def test_a_run_says_what_clients_make_of_it_and_resumes_to_the_bit(training, model, tmp_path):
    config = parse({**WORLD, "training": training, "model": model})
    whole = Simulation(config)
    summary = whole.run(tmp_path / "whole")
    rounds = read_jsonl(tmp_path / "whole" / "rounds.jsonl")
    assert "personal_accuracy" not in rounds[0]
    last = rounds[-1]
    # Few classes each: a client's own head does better on its kind of rows than one for all.
    assert last["personal_accuracy"] > last["global_accuracy"]
    assert last["personal_worst_accuracy"] <= last["personal_accuracy"] <= 1.0
    assert summary["executor"] == "reuse"

    # Cut short after round 2 and resumed.
    class StopError(Exception):
        pass

    def stop(record):
        if record["round"] == 2:
            raise StopError

    with pytest.raises(StopError):
        Simulation(config).run(tmp_path / "cut", on_round=stop)
    Simulation(config).run(tmp_path / "cut", resume=True)
    for name in ("model.safetensors", "personal.safetensors"):
        one, two = load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[key]) for key, value in one.items())
    again = read_jsonl(tmp_path / "cut" / "rounds.jsonl")
    assert [r.get("personal_accuracy") for r in again] == [
        r.get("personal_accuracy") for r in rounds
    ]


def test_no_defence_sees_a_private_tensor(tmp_path):
    simulation = Simulation(parse({**WORLD, "training": "fedper", "rounds": 1}))
    seen = []
    simulation.strategy.observers.append(lambda _, updates, __: seen.append(updates))
    tools = simulation.server_model.module
    before = {name: value.clone() for name, value in tools.state_dict().items()}
    simulation.run(tmp_path / "run")
    private = {name.split("/")[1] for name in load_file(tmp_path / "run" / "personal.safetensors")}
    assert private
    assert not private & set(seen[0].layout.names)
    after = tools.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in private)
