"""The federation: clients as index sets into one tensor data set, each honest or malicious."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fedguard.attacks.base import Attack
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError
from fedguard.randomness import SERVER, generator, numpy_generator
from fedguard.tasks.base import Task, task_of


def draw_malicious(num_clients: int, fraction: float, seed: int) -> frozenset[int]:
    """Return the malicious clients: a seeded draw of the given fraction, rounded to nearest."""
    count = round(fraction * num_clients)
    stream = numpy_generator(seed, 0, SERVER, "malicious")
    return frozenset(int(client) for client in stream.choice(num_clients, count, replace=False))


def draw_poisoned(
    num_clients: int, fraction: float, malicious: frozenset[int], seed: int
) -> frozenset[int]:
    """Return honest clients whose data a third party poisoned: a seeded draw among the honest.

    The fraction is of all clients, rounded to nearest, and at most all honest ones.
    """
    honest = [client for client in range(num_clients) if client not in malicious]
    count = min(round(fraction * num_clients), len(honest))
    stream = numpy_generator(seed, 0, SERVER, "poisoned")
    return frozenset(int(client) for client in stream.choice(honest, count, replace=False))


def hold_out_for_server(
    labels: Tensor,
    num_classes: int,
    samples: int,
    seed: int,
    *,
    balanced: bool = False,
    share: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Split training rows into the server's auxiliary rows and those left for the clients.

    Parameters
    ----------
    labels : Tensor
        (N,) class of each row, 0 to `num_classes` - 1.
    num_classes : int
        Number of classes.
    samples : int
        How many rows the server gets, at least 0 and below N.
    seed : int
        Seed of the run.
    balanced : bool
        Whether the rows are balanced over classes as far as the classes reach; a class gives more
        than half of its rows only where all others have given half of theirs. Otherwise they are
        what a server would have that collects as it comes: a draw among all rows.
    share : float
        Share of the classes that the server has rows of, above 0 to 1: a seeded draw among those
        that occur, rounded up.

    Returns
    -------
    tuple of Tensor
        (samples,) row numbers of the server, sorted, and the remaining row numbers, sorted.

    Raises
    ------
    ConfigurationError
        On ``server_samples`` if there are not so many rows.
    """
    if not 0 <= samples < len(labels):
        raise ConfigurationError(
            "server_samples", samples, f"0 to {len(labels) - 1} of the training rows"
        )
    order = torch.randperm(len(labels), generator=generator(seed, 0, SERVER, "server data"))
    if share < 1.0:
        order = order[torch.isin(labels[order], _classes_held(labels, share, seed))]
        if samples > len(order):
            allowed = f"0 to {len(order)}, the training rows of {share:g} of the classes"
            raise ConfigurationError("server_samples", samples, allowed)
    if balanced:
        order = _in_turn(order, labels, num_classes)
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[order[:samples]] = True
    return held.nonzero().flatten(), (~held).nonzero().flatten()


def _classes_held(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return the classes that the server has rows of."""
    known = labels.bincount().nonzero().flatten()
    drawn = torch.randperm(len(known), generator=generator(seed, 0, SERVER, "server classes"))
    return known[drawn[: math.ceil(share * len(known))]]


def _in_turn(order: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return rows in an order whose every beginning is balanced over classes."""
    # Rank every row within its class; the lowest ranks over all classes are a balanced choice.
    rank = torch.full((len(labels),), 2 * len(labels), dtype=torch.long)
    for label in range(num_classes):
        rows = order[labels[order] == label]
        rank[rows] = torch.arange(len(rows))
        rank[rows[(len(rows) + 1) // 2 :]] += len(labels)
    return order[torch.argsort(rank[order], stable=True)]


def hold_out_of_clients(
    strata: Tensor, shards: Sequence[Tensor], share: float, seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Split every client's rows into those that it trains on and those that it is judged on.

    The number is rounded to the nearest, at least 1; a client keeps at least one row for its
    training, so one with a single row is not judged. The rows are drawn from the client's own
    stream, each stratum's in proportion (systematic sampling along the strata).

    Parameters
    ----------
    strata : Tensor
        (N,) stratum of each training row.
    shards : sequence of Tensor
        Rows of each client, ascending.
    share : float
        Share of a client's rows that is held out, 0 to below 1.
    seed : int
        Seed of the run.

    Returns
    -------
    tuple of list of Tensor
        Each client's rows for training, and those held out, ascending; disjoint, together the
        shard.
    """
    training, held = [], []
    for client, rows in enumerate(shards):
        count = min(max(round(share * len(rows)), 1), len(rows) - 1) if share else 0
        stream = generator(seed, 0, client, "client evaluation")
        order = torch.randperm(len(rows), generator=stream)
        order = order[torch.argsort(strata[rows[order]], stable=True)]
        start = torch.rand((), generator=stream, dtype=torch.float64)
        places = ((torch.arange(count) + start) * (len(rows) / max(count, 1))).long()
        chosen = torch.zeros(len(rows), dtype=torch.bool)
        chosen[order[places.clamp(max=len(rows) - 1)]] = True
        training.append(rows[~chosen])
        held.append(rows[chosen])
    return training, held


@dataclass
class Federation:
    """Clients as index sets into one data set, with their roles.

    Attributes
    ----------
    dataset : Dataset
        The data, unscaled.
    shards : sequence of Tensor
        One int64 tensor of training rows per client.
    malicious : frozenset of int
        Malicious clients. Only the attack and the metrics may read it.
    attack : Attack
        What malicious clients do to their data.
    seed : int
        Seed of data poisoning and input noise.
    server_rows : Tensor
        Training rows held by the server; in no client's shard.
    server_label_noise : float
        Share of the server's labels that are wrong, 0 to 1.
    poisoned : frozenset of int
        Honest clients whose own data a third party poisoned, by the attack's data poisoning and in
        every round. Only the metrics may read it.
    noise_std : sequence of float, optional
        Standard deviation of each client's input noise.
    held_out : sequence of Tensor, optional
        Each client's rows that it does not train on but is judged on.
    groups : sequence of str, optional
        What each client belongs to, where the split says so.
    device : torch.device
        Where examples are kept once they have been used.
    """

    dataset: Dataset
    shards: Sequence[Tensor]
    malicious: frozenset[int]
    attack: Attack
    seed: int
    server_rows: Tensor
    server_label_noise: float = 0.0
    noise_std: Sequence[float] | None = None
    held_out: Sequence[Tensor] | None = None
    groups: Sequence[str] | None = None
    poisoned: frozenset[int] = frozenset()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self._cache: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}
        shape = (-1,) + (1,) * (len(self.dataset.input_shape) - 1)
        self._mean = torch.tensor(self.dataset.mean, device=self.device).view(shape)
        self._std = torch.tensor(self.dataset.std, device=self.device).view(shape)

    @cached_property
    def task(self) -> Task:
        """What is learnt from the data."""
        return task_of(self.dataset)

    @property
    def num_clients(self) -> int:
        """Number of clients K."""
        return len(self.shards)

    def normalise(self, x: Tensor) -> Tensor:
        """Return examples as the model sees them, on the federation's device; integers stay."""
        if not x.is_floating_point():
            return x.to(self.device, self.task.dtype)
        return (x.to(self.device) - self._mean).div_(self._std)

    def indexed(self, client: int, *, attacking: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the tensors that hold a client's examples, and its rows in them.

        Clients whose data are as they were drawn share one tensor of all examples, so that memory
        does not grow with the number of clients that have trained.

        Returns
        -------
        tuple of Tensor, Tensor and (Tensor or None)
            Examples as the model sees them, labels, and the client's rows in both, on the
            federation's device; None where all rows are the client's.
        """
        if self._changes(client, attacking):
            return (*self.shard(client, attacking=attacking), None)
        return (*self._clean, self.shards[client].to(self.device))

    def _changes(self, client: int, attacking: bool) -> bool:
        """Return whether a client's examples differ from those of the data set."""
        noisy = self.noise_std is not None and self.noise_std[client] > 0
        return noisy or self._poisons(client, attacking)

    def _poisons(self, client: int, attacking: bool) -> bool:
        if client in self.poisoned:
            return "data" in self.attack.needs
        return attacking and client in self.malicious and "data" in self.attack.needs

    @cached_property
    def _clean(self) -> tuple[Tensor, Tensor]:
        return self.normalise(self.dataset.x_train), self.dataset.y_train.to(self.device)

    def shard(self, client: int, *, attacking: bool) -> tuple[Tensor, Tensor]:
        """Return a client's data as its model sees them.

        Parameters
        ----------
        client : int
            Client id, 0 to K - 1.
        attacking : bool
            Whether a malicious client poisons its data; honest clients never do, but those of
            `poisoned` hold data that somebody else poisoned.
        """
        poisons = self._poisons(client, attacking)
        if not self._changes(client, attacking):
            return self._make_shard(client, poisons)
        key = (client, poisons)
        if key not in self._cache:
            self._cache[key] = self._make_shard(client, poisons)
        return self._cache[key]

    def _make_shard(self, client: int, poisons: bool) -> tuple[Tensor, Tensor]:
        rows = self.shards[client]
        x, y = self._noisy(client, rows, "input noise"), self.dataset.y_train[rows]
        if poisons:
            x, y = self.attack.poison(x, y, generator(self.seed, 0, client, "poison"))
        return self.normalise(x), y.to(self.device)

    def _noisy(self, client: int, rows: Tensor, purpose: str) -> Tensor:
        """Return a client's examples of some rows, unscaled, with the client's input noise."""
        x = self.dataset.x_train[rows]
        if self.noise_std is None or self.noise_std[client] <= 0:
            return x
        if not x.is_floating_point():
            raise ConfigurationError("partition", "noise", "a split without noise: x are integers")
        stream = generator(self.seed, 0, client, purpose)
        return x + self.noise_std[client] * torch.randn(x.shape, generator=stream)

    def held_out_examples(self, client: int) -> tuple[Tensor, Tensor]:
        """Return the rows that a client is judged on, never poisoned, as the model sees them."""
        rows = self.held_out[client] if self.held_out is not None else torch.empty(0).long()
        x = self._noisy(client, rows, "input noise of held-out rows")
        return self.normalise(x), self.dataset.y_train[rows].to(self.device)

    def coalition_examples(self) -> tuple[Tensor, Tensor]:
        """Return the malicious clients' clean examples, unscaled, and their labels."""
        rows = [self.shards[client] for client in sorted(self.malicious)]
        index = torch.cat(rows) if rows else torch.empty(0, dtype=torch.long)
        return self.dataset.x_train[index], self.dataset.y_train[index]

    def forget_poisoned(self) -> None:
        """Drop poisoned examples, for attacks whose poison changes from round to round."""
        self._cache = {key: value for key, value in self._cache.items() if not key[1]}

    def server_examples(self) -> tuple[Tensor, Tensor]:
        """Return the server's auxiliary examples as the model sees them, and their labels.

        The share `server_label_noise` of the labels, rounded to nearest, is wrong.
        """
        x, y = self.dataset.x_train[self.server_rows], self.dataset.y_train[self.server_rows]
        wrong = round(self.server_label_noise * len(y))
        if wrong:
            stream = generator(self.seed, 0, SERVER, "server labels")
            rows = torch.randperm(len(y), generator=stream)[:wrong]
            classes = self.dataset.num_classes
            shift = torch.randint(1, classes, (wrong,), generator=stream)
            y = y.clone()
            y[rows] = (y[rows] + shift) % classes
        return self.normalise(x), y.to(self.device)

    def class_counts(self) -> Tensor:
        """Return how many examples of each class (stratum) each client holds, (K, C)."""
        strata = self.task.strata(self.dataset.y_train)
        count = int(strata.max()) + 1 if len(strata) else 1
        classes = max(count, self.dataset.num_classes if self.task.softmax else 1)
        sizes = torch.tensor([len(rows) for rows in self.shards])
        owners = torch.repeat_interleave(torch.arange(self.num_clients), sizes)
        held = strata[torch.cat(list(self.shards))]
        cells = torch.bincount(owners * classes + held, minlength=self.num_clients * classes)
        return cells.view(self.num_clients, classes)
