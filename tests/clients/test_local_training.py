"""Local training against PyTorch's own optimiser, and every executor against the plain loop."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_federations import (
    SETTINGS,
    SIZES,
    Chain,
    Reader,
    make_trainer,
    text_dataset,
    train_round,
)
from torch import nn
from torch.nn import functional

from fedguard.clients.batched import MAX_GROUP, group_size
from fedguard.clients.executors import Crew
from fedguard.errors import ConfigurationError
from fedguard.randomness import generator
from fedguard.training.adam import Adam
from fedguard.training.fedprox import FedProx
from fedguard.training.sgd import Sgd

EXECUTORS = ["reuse", "vmap", "dense"]
BATCHED = ["vmap", "dense"]


def by_hand(trainer, client, settings, server_round=1):
    """One client's delta and last epoch's loss with `torch.optim.SGD`, step for step."""
    module = copy.deepcopy(trainer.model.module)
    start = nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    optimiser = torch.optim.SGD(
        module.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    rows = trainer.federation.shards[client]
    data = trainer.federation.dataset
    stream = generator(trainer.seed, server_round, client, "batches")
    total = 0.0
    for _ in range(settings.local_epochs):
        total = 0.0
        order = rows[torch.randperm(len(rows), generator=stream)]
        for batch in torch.split(order, settings.batch_size):
            optimiser.zero_grad()
            loss = functional.cross_entropy(module(data.x_train[batch]), data.y_train[batch])
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(batch)
    end = nn.utils.parameters_to_vector(module.parameters()).detach()
    return end - start, total / len(rows)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_every_executor_is_pytorchs_sgd_step_for_step(name, momentum, decay):
    settings = replace(SETTINGS, momentum=momentum, weight_decay=decay)
    trainer = make_trainer(settings=settings)
    wanted = [by_hand(trainer, client, settings) for client in range(len(SIZES))]
    deltas, trained = train_round(trainer, name)
    for client, (delta, loss) in enumerate(wanted):
        torch.testing.assert_close(deltas[client], delta, atol=2e-6, rtol=1e-5)
        assert trained.losses[client] == pytest.approx(loss, abs=1e-5)
    assert trained.examples.tolist() == list(SIZES)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize(
    ("said", "changed"),
    [
        ({"lr": 0.02}, {"lr": 0.02}),
        ({"weight-decay": 0.1}, {"weight_decay": 0.1}),
        ({"momentum": 0.5}, {"momentum": 0.5}),
        ({"local-epochs": 1}, {"local_epochs": 1}),
        ({"batch-size": 3}, {"batch_size": 3}),
        ({"lr": 0.0}, {"lr": 0.0}),
    ],
)
def test_what_the_server_says_is_obeyed_by_every_executor(name, said, changed):
    settings = replace(SETTINGS, **changed)
    trainer = make_trainer()
    wanted = [by_hand(trainer, client, settings)[0] for client in range(len(SIZES))]
    deltas, _ = train_round(trainer, name, configs=[said] * len(SIZES))
    torch.testing.assert_close(deltas, torch.stack(wanted), atol=2e-6, rtol=1e-5)
    quiet, _ = train_round(trainer, name)
    assert not torch.allclose(quiet, deltas, atol=1e-4)


@pytest.mark.parametrize("name", BATCHED)
def test_momentum_that_the_server_takes_away_is_gone(name):
    settings = replace(SETTINGS, momentum=0.9)
    trainer = make_trainer(settings=settings)
    deltas, _ = train_round(trainer, name, configs=[{"momentum": 0.0}] * len(SIZES))
    plain, _ = train_round(make_trainer(), "reuse")
    torch.testing.assert_close(deltas, plain, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", BATCHED)
def test_clients_that_are_told_different_things_train_differently(name):
    trainer = make_trainer()
    configs = [{"lr": 0.1}, {"lr": 0.2}, {"proximal-mu": 5.0}, {}, {"local-epochs": 1}]
    expected, told = train_round(trainer, "reuse", configs=configs)
    found, claimed = train_round(trainer, name, configs=configs)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert claimed.losses == pytest.approx(told.losses, abs=1e-5)
    alike, _ = train_round(trainer, "reuse")
    assert [bool(torch.allclose(a, b)) for a, b in zip(expected, alike, strict=True)] == [
        True,
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_schedule_is_followed_in_every_executor(name):
    trainer = make_trainer(rule=Sgd(schedule="step", every=1, gamma=0.5))
    for server_round, factor in ((1, 1.0), (3, 0.25)):
        settings = replace(SETTINGS, lr=SETTINGS.lr * factor)
        wanted, _ = by_hand(trainer, 0, settings, server_round)
        deltas, _ = train_round(trainer, name, server_round=server_round)
        torch.testing.assert_close(deltas[0], wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_bad_value_from_the_server_is_refused_in_every_executor(name):
    with pytest.raises(ConfigurationError, match=r"config\.lr"):
        train_round(make_trainer(), name, configs=[{}] * 4 + [{"lr": -1.0}])


def test_fedprox_is_sgd_on_the_loss_with_the_proximal_term():
    trainer = make_trainer(rule=FedProx(mu=0.7))
    module = copy.deepcopy(trainer.model.module)
    start = [p.detach().clone() for p in module.parameters()]
    optimiser = torch.optim.SGD(module.parameters(), lr=SETTINGS.lr)
    data, rows = trainer.federation.dataset, trainer.federation.shards[0]
    stream = generator(0, 1, 0, "batches")
    for _ in range(SETTINGS.local_epochs):
        order = rows[torch.randperm(len(rows), generator=stream)]
        for batch in torch.split(order, SETTINGS.batch_size):
            optimiser.zero_grad()
            loss = functional.cross_entropy(module(data.x_train[batch]), data.y_train[batch])
            away = sum(
                (p - s).square().sum() for p, s in zip(module.parameters(), start, strict=True)
            )
            (loss + 0.35 * away).backward()
            optimiser.step()
    wanted = nn.utils.parameters_to_vector(module.parameters()).detach()
    deltas, _ = train_round(trainer)
    flat = torch.cat([s.flatten() for s in start])
    torch.testing.assert_close(deltas[0], wanted - flat, atol=2e-6, rtol=1e-5)


def test_a_memory_lasts_from_round_to_round_and_is_each_clients_own():
    trainer = make_trainer(rule=Adam(keep=True))
    train_round(trainer)
    assert set(trainer.memories) == set(range(len(SIZES)))
    steps = {client: float(m["adam.steps"]) for client, m in trainer.memories.items()}
    assert steps == {client: 2 * -(-size // 4) for client, size in enumerate(SIZES)}
    train_round(trainer, server_round=2)
    again = {client: float(m["adam.steps"]) for client, m in trainer.memories.items()}
    assert again == {client: 2 * count for client, count in steps.items()}
    assert not torch.equal(trainer.memories[0]["adam.m"], trainer.memories[1]["adam.m"])


def test_threads_share_memories_and_change_no_bit_of_them():
    results = []
    for threads in (1, 3):
        trainer = make_trainer(rule=Adam(keep=True))
        for server_round in (1, 2):
            deltas, _ = train_round(trainer, threads=threads, server_round=server_round)
        results.append((deltas, trainer.memories))
    assert torch.equal(results[0][0], results[1][0])
    for client, memory in results[0][1].items():
        for name, value in memory.items():
            assert torch.equal(value, results[1][1][client][name])


def test_a_rule_that_forgets_leaves_no_memory():
    trainer = make_trainer(rule=Adam())
    train_round(trainer)
    assert trainer.memories == {}


class Frozen(Chain):
    """Its first layer is not trained."""

    def __init__(self) -> None:
        super().__init__()
        for value in self.first.parameters():
            value.requires_grad_(False)


@pytest.mark.parametrize("name", ["reuse", "vmap"])
def test_frozen_parameters_stay_and_do_not_travel(name):
    settings = replace(SETTINGS, weight_decay=0.5, momentum=0.5)
    trainer = make_trainer(Frozen(), settings)
    assert trainer.layout.names == ("last.weight", "last.bias")
    before = {n: v.clone() for n, v in trainer.model.module.state_dict().items()}
    deltas, _ = train_round(trainer, name)
    assert deltas.shape == (len(SIZES), 3 * 5 + 3)
    assert float(deltas.abs().min(dim=1).values.max()) > 0.0
    after = trainer.model.module.state_dict()
    for key in ("first.weight", "first.bias"):
        assert torch.equal(before[key], after[key])
    expected, _ = train_round(trainer, "reuse")
    torch.testing.assert_close(deltas, expected, atol=2e-6, rtol=1e-5)


def test_frozen_layers_are_no_chain_for_the_dense_program():
    with pytest.raises(ValueError, match="no chain"):
        train_round(make_trainer(Frozen()), "dense")


@pytest.mark.parametrize("name", ["reuse", "vmap"])
def test_tied_weights_travel_once_and_are_trained_from_both_ends(name):
    trainer = make_trainer(Reader(), dataset=text_dataset(sum(SIZES) + 2))
    assert trainer.layout.names == ("embedding.weight", "head.bias")
    module = copy.deepcopy(trainer.model.module)
    assert module.head.weight.data_ptr() == module.embedding.weight.data_ptr()
    start = nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    optimiser = torch.optim.SGD(module.parameters(), lr=SETTINGS.lr)
    data, rows = trainer.federation.dataset, trainer.federation.shards[1]
    stream = generator(0, 1, 1, "batches")
    for _ in range(SETTINGS.local_epochs):
        batch = rows[torch.randperm(len(rows), generator=stream)]
        optimiser.zero_grad()
        output = module(data.x_train[batch])
        functional.cross_entropy(output.flatten(0, 1), data.y_train[batch].flatten()).backward()
        optimiser.step()
    wanted = nn.utils.parameters_to_vector(module.parameters()).detach() - start
    deltas, trained = train_round(trainer, name)
    torch.testing.assert_close(deltas[1], wanted, atol=2e-6, rtol=1e-4)
    assert trained.losses[1] > 1.0


def test_a_group_takes_as_many_clients_as_fit_the_cache():
    plain, moving = (make_trainer(settings=replace(SETTINGS, momentum=m)) for m in (0.0, 0.9))
    assert group_size(plain) == MAX_GROUP
    big = make_trainer(Wide())
    parameters = big.layout.num_trainable
    assert group_size(big) == (3 << 20) // (4 * parameters) < MAX_GROUP
    assert group_size(moving) == MAX_GROUP
    big.settings = replace(SETTINGS, momentum=0.9)
    assert group_size(big) == (3 << 20) // (8 * parameters)


class Wide(nn.Module):
    """Enough parameters that few clients fit."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10_000)
        self.last = nn.Linear(10_000, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


def test_a_crew_does_every_task_once_and_raises_the_first_error():
    done: list[tuple[str, int]] = []
    crew = Crew(["a", "b", "c"])
    crew.run(list(range(50)), lambda worker, task: done.append((worker, task)))
    assert sorted(task for _, task in done) == list(range(50))
    assert {worker for worker, _ in done} <= {"a", "b", "c"}

    def fail(worker, task):
        if task == 3:
            raise KeyError(task)

    with pytest.raises(KeyError):
        crew.run([1, 2, 3, 4], fail)
    crew.close()


def test_a_crew_of_one_keeps_the_order():
    done: list[int] = []
    Crew(["only"]).run([3, 1, 2], lambda _, task: done.append(task))
    assert done == [3, 1, 2]
