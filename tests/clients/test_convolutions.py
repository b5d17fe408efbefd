"""The `conv` executor: convolutional networks with their gradient written out by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedguard.attacks.base import Attack
from fedguard.clients import pictures
from fedguard.clients.batched import BatchedExecutor
from fedguard.clients.conv import ConvProgram
from fedguard.clients.executors import Cohort
from fedguard.clients.federation import Federation
from fedguard.clients.patched import PatchedProgram, fits
from fedguard.clients.planner import Plan, make_executor, plan
from fedguard.clients.stages import stages_of
from fedguard.clients.training import ClientTrainer, TrainingSettings
from fedguard.config import parse
from fedguard.data.dataset import Dataset
from fedguard.models.cnn import Cnn
from fedguard.training.sgd import Sgd

SIZES = (13, 7, 21, 8, 8)
PLAIN = TrainingSettings(0.1, 0.0, 0.0, 1, 8)
HARD = TrainingSettings(0.05, 0.9, 0.01, 2, 8)


def two_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 8),
        nn.ReLU(),
        nn.Linear(8, 10),
    )


class Odd(nn.Module):
    """Everything that a stage may have: groups, dilation, no bias, pooling first of all ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3)
        self.two = nn.Conv2d(6, 4, (2, 3), dilation=(1, 2), padding=(0, 2), bias=False)
        self.pool = nn.MaxPool2d((2, 1))
        self.out = nn.Linear(4 * 2 * 6, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.pool(self.one(x)))
        return self.out(torch.flatten(torch.relu(self.two(x)), 1))


def strips() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 16, (3, 2), stride=(1, 2), padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 5, 2, padding=(1, 0)),
        nn.MaxPool2d((3, 2)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 4 * 3, 10),
    )


NETWORKS = {
    "cnn": lambda: Cnn((3, 12, 12), 10, channels=(4, 6), hidden=8),
    "two convolutions": two_convolutions,
    "odd": Odd,
    "strips": strips,
}
PROGRAMS = {"patches": PatchedProgram, "oneDNN": ConvProgram}


def trainer(network: nn.Module, settings: TrainingSettings, shape=(3, 12, 12)) -> ClientTrainer:
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(sum(SIZES), *shape, generator=stream)
    y = torch.randint(0, 10, (len(x),), generator=stream)
    names = tuple("0123456789")
    data = Dataset("noise", x, y, x[:5], y[:5], 10, names, (0.0,) * 3, (1.0,) * 3)
    shards = list(torch.split(torch.arange(len(x)), SIZES))
    none = torch.empty(0, dtype=torch.long)
    return ClientTrainer(
        network, Federation(data, shards, frozenset(), Attack(), 0, none), settings, 0
    )


def trained(made: ClientTrainer, name: str, threads: int = 1, clients=(0, 1, 2, 3, 4), start=None):
    if name in PROGRAMS:
        executor = BatchedExecutor(made, "conv", PROGRAMS[name], threads, largest=4)
    else:
        executor = make_executor(Plan(name, "", threads), made)
    deltas = torch.full((len(clients), made.layout.size), float("nan"))
    if start is None:
        start = 0.2 * torch.randn(made.layout.size, generator=torch.Generator().manual_seed(2))
    left = []
    if name in PROGRAMS:  # a group that fails trains client by client, which would equal the loop
        executor.reuse.train_rows = lambda cohort, rows, *rest: left.extend(rows)
    told = executor.train(Cohort(tuple(clients), 1, start), deltas)
    executor.close()
    assert not left
    return deltas, told


@pytest.mark.parametrize("settings", [PLAIN, HARD], ids=["plain", "momentum and decay"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_equals_the_plain_loop(program, network, settings) -> None:
    torch.manual_seed(0)
    made = trainer(network(), settings)
    expected, told = trained(made, "reuse")
    found, claimed = trained(made, program)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert float(expected.abs().max()) > 0.01
    assert claimed.losses == pytest.approx(told.losses, abs=1e-5)
    assert torch.equal(claimed.examples, told.examples)
    assert not claimed.failed


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_patches_in_bands_give_the_same(network, monkeypatch) -> None:
    torch.manual_seed(0)
    made = trainer(network(), HARD)
    expected, _ = trained(made, "patches")
    monkeypatch.setattr(pictures, "PATCH_BYTES", 60_000)  # some rows a time, the last ones fewer
    torch.testing.assert_close(trained(made, "patches")[0], expected, atol=1e-5, rtol=0)
    monkeypatch.setattr(pictures, "PATCH_BYTES", 0)
    torch.testing.assert_close(trained(made, "patches")[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("program", PROGRAMS)
def test_of_equal_values_the_first_of_a_window_takes_the_slope(program) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 10)
    )
    with torch.no_grad():
        network[1].weight.zero_()  # every value of a window is the bias
    made = trainer(network, PLAIN)
    start = made.layout.flatten(network.state_dict())
    places = torch.randn(made.layout.size, generator=torch.Generator().manual_seed(2))
    start += 0.2 * places * (start != 0)
    found, expected = (trained(made, name, start=start)[0] for name in (program, "reuse"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_program_takes_batches_and_groups_of_any_size_one_after_another() -> None:
    torch.manual_seed(0)
    made = trainer(two_convolutions(), PLAIN)
    executor = BatchedExecutor(made, "conv", PatchedProgram, largest=2)
    start = made.global_vector().clone()
    for clients in ((1,), (0, 2, 3), (1, 4), (3,)):
        deltas = torch.full((len(clients), made.layout.size), float("nan"))
        executor.reuse.train_rows = lambda *given: None
        executor.train(Cohort(clients, 1, start), deltas)
        alone = torch.empty_like(deltas)
        make_executor(Plan("reuse", ""), made).train(Cohort(clients, 1, start), alone)
        torch.testing.assert_close(deltas, alone, atol=1e-5, rtol=0)
    executor.close()


def test_large_patches_and_many_groups_are_left_to_onednn() -> None:
    small = trainer(two_convolutions(), PLAIN)
    assert fits(small)
    # 3 x 3 x 3 values at 10 x 10 places of each picture, then 4 x 3 x 3 at 8 x 8.
    assert not fits(trainer(two_convolutions(), replace(PLAIN, batch_size=98)))
    assert fits(trainer(two_convolutions(), replace(PLAIN, batch_size=97)))
    many = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 3, groups=5), nn.Flatten())
    assert not fits(trainer(nn.Sequential(*many, nn.Linear(500, 10)), PLAIN))
    assert "one product each" in plan(parse({"clients": 5}), small).reason


@pytest.mark.parametrize("program", PROGRAMS)
def test_decay_without_momentum_and_a_shaped_loss_equal_the_plain_loop(program) -> None:
    torch.manual_seed(0)
    made = trainer(two_convolutions(), replace(PLAIN, weight_decay=0.1))
    made.rule = Sgd(focal=2.0, balance=0.9)
    torch.testing.assert_close(
        trained(made, program)[0], trained(made, "reuse")[0], atol=1e-5, rtol=0
    )


def test_neither_threads_nor_the_others_of_a_group_change_a_bit() -> None:
    torch.manual_seed(0)
    made = trainer(two_convolutions(), PLAIN)
    deltas, _ = trained(made, "conv")
    assert torch.equal(trained(made, "conv", threads=2)[0], deltas)
    alike = [3, 4]  # of one size, so that nothing is padded
    alone = torch.cat([trained(made, "conv", clients=[client])[0] for client in alike])
    torch.testing.assert_close(alone, deltas[alike], atol=1e-6, rtol=0)


def test_a_relu_in_front_of_a_pooling_moves_behind_it() -> None:
    found = stages_of(two_convolutions())
    assert found is not None
    first, second = found.pictures
    assert first.relu
    assert first.window == (1, 1)
    assert second.relu
    assert second.window == (2, 2)
    assert [layer.relu for layer in found.layers] == [True, False]


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(400, 10)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(400, 10)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(64, 10)),
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 10)
        ),
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding_mode="circular"), nn.Flatten(), nn.Linear(400, 10)
        ),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 10), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(432, 10)),
    ],
    ids=["norm", "late relu", "overlap", "twice", "circular", "relu last", "no convolution"],
)
def test_other_networks_are_not_taken(network: nn.Module) -> None:
    assert stages_of(network) is None
    config = parse({"clients": 5, "executor": "conv"})
    found = plan(config, trainer(network, PLAIN))
    assert found.executor == "reuse"
    assert "conv was asked for" in found.reason


def test_auto_picks_it_for_a_cnn_on_a_cpu() -> None:
    made = trainer(two_convolutions(), PLAIN)
    assert plan(parse({"clients": 5}), made).executor == "conv"
    assert plan(parse({"clients": 3, "malicious": 0}), made).executor == "reuse"
    assert plan(parse({"clients": 5, "executor": "reuse"}), made).executor == "reuse"
