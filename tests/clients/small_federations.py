"""Small federations for the tests of what clients do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedguard.attacks.base import Attack
from fedguard.clients.executors import Cohort, Trained
from fedguard.clients.federation import Federation
from fedguard.clients.planner import Plan, make_executor
from fedguard.clients.training import ClientTrainer, TrainingSettings
from fedguard.data.dataset import Dataset
from fedguard.training.base import TrainingRule

SIZES = (11, 4, 7, 16, 4)
"""Rows of each client: different, and two alike."""

SETTINGS = TrainingSettings(lr=0.1, momentum=0.0, weight_decay=0.0, local_epochs=2, batch_size=4)


def toy_dataset(rows: int, features: int = 6, classes: int = 3, **values: Any) -> Dataset:
    """Return classes that a linear model can learn in part."""
    stream = torch.Generator().manual_seed(7)
    y = torch.arange(rows) % classes
    x = torch.randn(classes, features, generator=stream)[y]
    x = x + 0.7 * torch.randn(rows, features, generator=stream)
    names = tuple("abcdefgh"[:classes])
    return Dataset("toy", x, y, x.clone(), y.clone(), classes, names, (0.0,), (1.0,), **values)


def text_dataset(rows: int, length: int = 5, words: int = 7) -> Dataset:
    """Return rows of word numbers with the next words."""
    table = torch.randint(0, words, (rows, length + 1), generator=torch.Generator().manual_seed(3))
    x, y = table[:, :-1].contiguous(), table[:, 1:].contiguous()
    names = tuple("abcdefg"[:words])
    return Dataset("text", x, y, x, y, words, names, (0.0,), (1.0,), task="next-word")


class Chain(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self, features: int = 6, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(features, 5)
        self.last = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


class Reader(nn.Module):
    """Logits of the next word from the present one; output weights tied to the embedding."""

    def __init__(self, words: int = 7) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embedding = nn.Embedding(words, 4)
        self.head = nn.Linear(4, words)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(x)))


def make_trainer(
    module: nn.Module | None = None,
    settings: TrainingSettings = SETTINGS,
    rule: TrainingRule | None = None,
    *,
    dataset: Dataset | None = None,
    sizes: Sequence[int] = SIZES,
    attack: Attack | None = None,
    malicious: Sequence[int] = (),
    rounds: int = 4,
) -> ClientTrainer:
    """Return a trainer of clients with `sizes` rows each."""
    data = dataset or toy_dataset(sum(sizes) + 2)
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(5))
    federation = Federation(
        dataset=data,
        shards=list(torch.split(order, list(sizes))),
        malicious=frozenset(malicious),
        attack=attack or Attack(),
        seed=0,
        server_rows=torch.tensor([sum(sizes), sum(sizes) + 1]),
    )
    return ClientTrainer(module or Chain(), federation, settings, 0, rule, rounds)


def train_round(
    trainer: ClientTrainer,
    name: str = "reuse",
    *,
    configs: Sequence[Mapping[str, Any]] = (),
    server_round: int = 1,
    attacking: bool = False,
    threads: int = 1,
    vector: Tensor | None = None,
) -> tuple[Tensor, Trained]:
    """Return the deltas of all clients under an executor, and what they report."""
    executor = make_executor(Plan(name, "", threads), trainer)
    start = trainer.global_vector() if vector is None else vector
    count = trainer.federation.num_clients
    deltas = torch.full((count, trainer.layout.size), float("nan"))
    cohort = Cohort(
        tuple(range(count)), server_round, start, attacking=attacking, configs=tuple(configs)
    )
    trained = executor.train(cohort, deltas)
    executor.close()
    trainer.load_for(None, start)
    return deltas, trained
