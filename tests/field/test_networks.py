"""Forty networks as people write them: each trains to the same numbers in every executor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedguard.clients.planner import _obstacle
from fedguard.data.dataset import Dataset
from fedguard.models.build import build
from fedguard.training.base import TrainingSettings
from tests.clients.small_federations import make_trainer, train_round

HERE = __name__
USERS = "tests.models.test_users_networks"
SHAPE = (6, 4)


class Of(nn.Sequential):
    """Flat rows through some layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(nn.Flatten(), nn.Linear(24, 8), *layers, nn.Linear(8, 3))


class Tokens(nn.Module):
    """Rows as sequences of six tokens of width 4, through a core, to their mean."""

    def __init__(self, core: nn.Module, width: int = 4) -> None:
        super().__init__()
        self.core, self.out = core, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.core(x)
        found = found[0] if isinstance(found, tuple) else found
        return self.out(found.mean(1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.out = nn.Linear(24, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1))
        return self.out(h + torch.relu(self.block(h)))


class Scaled(nn.Module):
    """A parameter without dimensions, a frozen one, and names of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.still = nn.Parameter(torch.ones(3), requires_grad=False)
        self.parts = nn.ModuleDict({"läyer-1": nn.Linear(24, 3), "2": nn.Linear(24, 3)})

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.scale * self.parts["läyer-1"](x) + self.still * self.parts["2"](x)


class Branching(nn.Module):
    """Goes by its data, so that nothing can batch it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(24, 3), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.one(x) if float(x.detach().sum()) > 0 else self.two(x)


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(24, 3) / 5) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.weights[0]) + x.flatten(1) @ self.weights[1]


class Halves(nn.Module):
    """A half-precision and a complex-free double buffer beside ordinary weights."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(24, 3)
        self.register_buffer("shift", torch.full((24,), 0.5, dtype=torch.float16))
        self.register_buffer("wide", torch.full((24,), 2.0, dtype=torch.float64))
        self.register_buffer("unsaved", torch.ones(24), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.flatten(1) * self.unsaved * self.wide.float() + self.shift.float())


def made(kind: str, **_: Any) -> nn.Module:
    """Return the network of a name in `KINDS`."""
    return KINDS[kind]()


KINDS: dict[str, Any] = {
    "batch norm": lambda: Of(nn.BatchNorm1d(8), nn.ReLU()),
    "batch norm without statistics": lambda: Of(nn.BatchNorm1d(8, track_running_stats=False)),
    "batch norm without weights": lambda: Of(nn.BatchNorm1d(8, affine=False), nn.ReLU()),
    "batch norm, cumulative": lambda: Of(nn.BatchNorm1d(8, momentum=None), nn.ReLU()),
    "layer norm": lambda: Of(nn.LayerNorm(8), nn.GELU()),
    "group norm": lambda: Of(nn.GroupNorm(2, 8), nn.SiLU()),
    "prelu": lambda: Of(nn.PReLU()),
    "prelu per unit": lambda: Of(nn.PReLU(8)),
    "tanh": lambda: Of(nn.Tanh()),
    "no bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 3, bias=False)),
    "double": lambda: Of(nn.Tanh()).double(),
    "half": lambda: Of(nn.ReLU()).half(),
    "bfloat16": lambda: Of(nn.ReLU()).bfloat16(),
    "weight norm": lambda: Of(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))),
    "spectral norm": lambda: Of(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))),
    "older spectral norm": lambda: Of(nn.utils.spectral_norm(nn.Linear(8, 8))),
    "lstm": lambda: Tokens(nn.LSTM(4, 5, batch_first=True), 5),
    "gru": lambda: Tokens(nn.GRU(4, 5, batch_first=True), 5),
    "rnn": lambda: Tokens(nn.RNN(4, 5, batch_first=True), 5),
    "two layers of lstm, both ways": lambda: Tokens(
        nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True), 10
    ),
    "convolution": lambda: nn.Sequential(
        nn.Conv1d(6, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)
    ),
    "attention": lambda: Tokens(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)),
    "dropout": lambda: Of(nn.Dropout(0.5)),
    "residual": Residual,
    "scalar, frozen and odd names": Scaled,
    "goes by its data": Branching,
    "list of parameters": Listed,
    "buffers of other precision": Halves,
    "first layer frozen": lambda: frozen_first(Of(nn.ReLU())),
    "last layer frozen": lambda: frozen_last(Of(nn.ReLU())),
    "eight layers": lambda: Of(*[nn.Linear(8, 8) for _ in range(6)]),
    "embedding bag of positions": lambda: Tokens(nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1))),
    "bilinear": lambda: Of(Twofold()),
}


class Twofold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(8, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.pair(x, x)


def frozen_first(module: nn.Sequential) -> nn.Sequential:
    module[1].requires_grad_(False)
    return module


def frozen_last(module: nn.Sequential) -> nn.Sequential:
    module[-1].requires_grad_(False)
    return module


OTHERS = [
    ("Norm", {}),
    ("Recurrent", {}),
    ("Tied", {}),
    ("Twice", {}),
    ("Frozen", {}),
    ("Counting", {}),
    ("Functional", {}),
    ("Lazy", {}),
]
CASES = [(f"{HERE}:made", {"kind": kind}) for kind in KINDS]
CASES += [(f"{USERS}:{name}", options) for name, options in OTHERS]


def rows() -> Dataset:
    """Return 44 rows of shape (6, 4) in three classes that can be told apart."""
    stream = torch.Generator().manual_seed(1)
    y = torch.arange(44) % 3
    x = torch.randn(3, *SHAPE, generator=stream)[y] + 0.5 * torch.randn(
        44, *SHAPE, generator=stream
    )
    return Dataset("rows", x, y, x.clone(), y.clone(), 3, ("a", "b", "c"), (0.0,), (1.0,))


@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[options.get("kind", name[-9:]) for name, options in CASES]
)
def test_it_trains_as_pytorch_does_and_alike_in_every_executor_that_takes_it(name, options):
    settings = TrainingSettings(0.05, 0.9, 0.01, 2, 4)
    model = build(name, SHAPE, 3, 0, **options)
    first = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = {key for key, value in model.named_parameters() if not value.requires_grad}
    trainer = make_trainer(model, settings, dataset=rows())
    deltas, trained = train_round(trainer)
    assert torch.isfinite(deltas).all()
    assert trained.failed == {}
    trainable = deltas[:, : trainer.layout.num_trainable]
    assert (trainable.abs().amax(dim=1) > 0).all()
    # What is frozen neither travels nor moves.
    state = trainer.model.module.state_dict()
    assert not frozen & set(trainer.layout.names)
    assert all(torch.equal(state[key], first[key]) for key in frozen)
    twin, _ = train_round(
        make_trainer(build(name, SHAPE, 3, 0, **options), settings, dataset=rows())
    )
    assert torch.equal(deltas, twin)
    for executor in ("vmap", "dense", "conv"):
        other = make_trainer(build(name, SHAPE, 3, 0, **options), settings, dataset=rows())
        if _obstacle(executor, other) is None:
            batched, _ = train_round(other, executor)
            torch.testing.assert_close(batched, deltas, atol=2e-4, rtol=1e-3)


def test_there_are_forty_of_them():
    assert len(CASES) >= 40


def test_the_kinds_that_cannot_be_batched_are_planned_client_by_client():
    refused = {
        options["kind"]
        for name, options in CASES[: len(KINDS)]
        if _obstacle("vmap", make_trainer(build(name, SHAPE, 3, 0, **options), dataset=rows()))
    }
    assert {"dropout", "goes by its data"} <= refused
    assert not {"batch norm", "layer norm", "residual", "tanh"} & refused
