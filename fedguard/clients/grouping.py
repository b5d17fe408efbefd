"""Groups of clients that train as one batched program, and the batches that each of them takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from fedguard.clients.executors import Cohort
from fedguard.clients.training import ClientTrainer, TrainingSettings, counted
from fedguard.randomness import generator


@dataclass(frozen=True)
class Group:
    """Clients with their batches as index tables, the client with most steps first.

    Attributes
    ----------
    positions : tuple of int
        (G,) rows of the cohort.
    sizes : tuple of int
        (G,) examples of each client.
    x, y : Tensor
        Tensors that hold the examples of all clients of the group.
    rows : Tensor
        (G, T, B) int64 rows of `x` that a client takes in a step; padded with row 0.
    weights : Tensor
        (G, T, B) weight of each row in its step's mean loss; 0 for padding.
    shares : Tensor
        (G, T) share of a step in the mean loss of the last epoch; 0 in earlier epochs.
    active : tuple of int
        (T,) how many clients, counted from the first, take part in a step.
    scales : Tensor, optional
        (G, T, B) what the training rule's shaping weighs each row by; None where it is 1.
    """

    positions: tuple[int, ...]
    sizes: tuple[int, ...]
    x: Tensor
    y: Tensor
    rows: Tensor
    weights: Tensor
    shares: Tensor
    active: tuple[int, ...]
    scales: Tensor | None = None


@dataclass(frozen=True)
class _Member:
    position: int
    client: int
    x: Tensor
    y: Tensor
    rows: Tensor | None
    size: int


def make_groups(
    trainer: ClientTrainer,
    cohort: Cohort,
    positions: Sequence[int],
    size: int,
    settings: TrainingSettings,
    *,
    exact: bool,
) -> Iterator[Group]:
    """Divide clients into groups of at most `size`, sorted by the size of their shards.

    Which clients share a group depends on the cohort alone, not on threads or earlier rounds.

    Parameters
    ----------
    trainer : ClientTrainer
        Whose clients they are.
    cohort : Cohort
        The round.
    positions : sequence of int
        Rows of the cohort to group.
    size : int
        Most clients in a group.
    settings : TrainingSettings
        Hyper-parameters of the round.
    exact : bool
        Only clients with equally many examples share a group, so that nothing is padded; for
        models whose layers look at the whole batch.
    """
    members = [_member(trainer, cohort, position) for position in positions]
    members.sort(key=lambda one: (one.rows is None, -one.size, one.position))
    for _, together in groupby(members, key=lambda m: (m.rows is None, m.size if exact else 0)):
        alike = list(together)
        for start in range(0, len(alike), size):
            yield _group(trainer, cohort, alike[start : start + size], settings)


def _member(trainer: ClientTrainer, cohort: Cohort, position: int) -> _Member:
    client = cohort.clients[position]
    x, y, rows = trainer.data_of(client, attacking=cohort.attacking)
    return _Member(position, client, x, y, rows, len(y) if rows is None else len(rows))


def _group(
    trainer: ClientTrainer, cohort: Cohort, members: list[_Member], given: TrainingSettings
) -> Group:
    # A batch beyond the largest shard would only be padding.
    largest = max(member.size for member in members)
    settings = replace(given, batch_size=max(min(given.batch_size, largest), trainer.least))
    least = trainer.least
    steps = [settings.local_epochs * _steps(m.size, settings.batch_size, least) for m in members]
    shape = (len(members), max(steps), settings.batch_size)
    rows = torch.zeros(shape, dtype=torch.long)
    weights = torch.zeros(shape)
    shares = torch.zeros(shape[:2])
    scales = torch.ones(shape) if trainer.rule.shaping.balance else None
    known: dict[int, tuple[Tensor, Tensor]] = {}
    offset = 0
    for index, (member, count) in enumerate(zip(members, steps, strict=True)):
        if member.size not in known:
            known[member.size] = _weights(member.size, settings, least)
        weights[index, :count], shares[index, :count] = known[member.size]
        taken = _batches(member, cohort.server_round, trainer.seed, settings, least)
        if scales is not None:
            labels = member.y if member.rows is None else member.y[member.rows]
            own_scales = trainer.rule.shaping.row_weights(labels)
            if own_scales is not None:
                scales[index, :count] = own_scales.cpu()[taken]
        own = member.rows is not None
        rows[index, :count] = (
            member.rows.cpu()[taken] if member.rows is not None else offset + taken
        )
        offset += 0 if own else member.size
    shared = members[0].rows is not None
    x = members[0].x if shared else torch.cat([member.x for member in members])
    y = members[0].y if shared else torch.cat([member.y for member in members])
    return Group(
        positions=tuple(member.position for member in members),
        sizes=tuple(member.size for member in members),
        x=x,
        y=y,
        rows=rows.to(x.device),
        weights=weights.to(x.device),
        shares=shares.to(x.device),
        active=tuple(sum(count > step for count in steps) for step in range(shape[1])),
        scales=None if scales is None else scales.to(x.device),
    )


def _batches(
    member: _Member, server_round: int, seed: int, settings: TrainingSettings, least: int
) -> Tensor:
    """Return (T, B) places within the shard, in the order that `ClientTrainer` takes them."""
    stream = generator(seed, server_round, member.client, "batches")
    padded = math.ceil(member.size / settings.batch_size) * settings.batch_size
    table = torch.zeros(settings.local_epochs, padded, dtype=torch.long)
    for epoch in range(settings.local_epochs):
        table[epoch, : member.size] = torch.randperm(member.size, generator=stream)
    steps = _steps(member.size, settings.batch_size, least)
    if steps * settings.batch_size == padded:
        return table.view(-1, settings.batch_size)
    kept = table.view(settings.local_epochs, -1, settings.batch_size)[:, :steps]
    return kept.reshape(-1, settings.batch_size)


def _steps(size: int, batch_size: int, least: int) -> int:
    """Return an epoch's batches, a last one of fewer than `least` rows left out."""
    return math.ceil(size / batch_size) - int(0 < size % batch_size < least)


def _weights(size: int, settings: TrainingSettings, least: int) -> tuple[Tensor, Tensor]:
    """Return the (T, B) weights and (T,) shares of a client with `size` examples."""
    batch, epochs = settings.batch_size, settings.local_epochs
    steps = _steps(size, batch, least)
    real = (torch.arange(steps * batch) < size).view(steps, batch).float()
    counts = real.sum(dim=1)
    shares = torch.zeros(epochs, steps)
    shares[-1] = counts / counted(size, batch, least)
    return (real / counts[:, None]).repeat(epochs, 1), shares.flatten()
