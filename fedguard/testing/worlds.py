"""The small worlds that the conformance suite puts parts into."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedguard.layout import ParameterLayout
from fedguard.randomness import generator
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.update_store import StoredRows
from fedguard.updates import ClientUpdates

HONEST = 16
HOSTILE = 4


def small_tools(seed: int = 0) -> ServerTools:
    """Return a small classifier with BatchNorm and 60 examples it could learn from."""
    stream = generator(seed, 0, 0, "testing")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))
    y = torch.arange(60) % 4
    centres = torch.randn(4, 8, generator=stream)
    x = centres[y] + 0.3 * torch.randn(60, 8, generator=stream)
    return ServerTools(model, x, y, latent_layer="2", num_classes=4)


def honest_updates(
    count: int,
    *,
    seed: int = 0,
    tools: ServerTools | None = None,
    mean: float = 0.05,
    std: float = 0.1,
    server_round: int = 1,
) -> ClientUpdates:
    """Return `count` updates drawn from N(mean, std^2), with small BatchNorm statistics.

    Parameters
    ----------
    count : int
        Number of clients K.
    seed : int
        Which draw.
    tools : ServerTools, optional
        Whose model gives the layout; `small_tools` if left out.
    mean, std : float
        Of every entry of the trainable part.
    server_round : int
        Round the updates belong to.
    """
    model = (tools or small_tools()).model
    layout = ParameterLayout.from_module(model)
    stream = generator(seed, server_round, 0, "honest updates")
    deltas = mean + std * torch.randn(count, layout.size, generator=stream)
    deltas[:, layout.num_trainable :] *= 0.01
    return ClientUpdates.from_matrix(
        deltas,
        num_examples=torch.full((count,), 10.0),
        node_ids=[100 + 7 * row for row in range(count)],
        global_vector=layout.flatten(model.state_dict()),
        layout=layout,
        server_round=server_round,
    )


def with_deltas(updates: ClientUpdates, deltas: Tensor | StoredRows) -> ClientUpdates:
    """Return updates like `updates` with other deltas, sanitised as those of a round are."""
    return ClientUpdates.from_matrix(
        deltas,
        updates.num_examples,
        updates.node_ids,
        updates.global_vector,
        updates.layout,
        server_round=updates.server_round,
    )


def hostile_rows(kind: str, honest: Tensor, count: int = HOSTILE) -> Tensor:
    """Return the (count, D) rows of one entry of the hostile-vector table.

    Parameters
    ----------
    kind : str
        One of `HOSTILE_KINDS`.
    honest : Tensor
        (K, D) the honest updates.
    count : int
        Number of hostile rows.
    """
    size = honest.shape[1]
    if kind == "one-nan":
        rows = honest[:count].clone()
        rows[:, size // 2] = math.nan
        return rows
    if kind == "one-coordinate":
        rows = honest[:count].clone()
        rows[:, size // 2] = 1e8
        return rows
    if kind == "sybil-copies":
        return (-5.0 * honest.mean(dim=0)).expand(count, size).clone()
    return torch.full((count, size), float(kind))


HOSTILE_KINDS = (
    "1e4",
    "1e8",
    "-1e8",
    "1e30",
    "inf",
    "nan",
    "one-nan",
    "one-coordinate",
    "sybil-copies",
)
"""Rows of the hostile-vector table."""

DECOY_SIZES = tuple(10.0**power for power in range(2, 10))
"""Sizes of a decoy's entries: absurd, and small enough to count as a well-formed reply."""

DECOY_KINDS = ("at right angles", "all entries alike", "one entry")
"""Where a decoy's size lies; at right angles to the attackers, it says nothing about them."""

DECOY_STRENGTHS = (10.0, 60.0)
"""How many times the honest mean the attackers beside a decoy are off."""

DECOY_HONEST = 20
DECOY_ATTACKERS = 4


def decoy_updates(kind: str, size: float, strength: float) -> tuple[ClientUpdates, ClientUpdates]:
    """Return a round with one decoy and a few moderate attackers, and its honest updates alone.

    The attackers send honest updates minus `strength` times the honest mean.

    Parameters
    ----------
    kind : str
        One of `DECOY_KINDS`.
    size : float
        Size of the decoy's entries.
    strength : float
        How far the attackers are off, in honest means.
    """
    whole = honest_updates(1 + DECOY_ATTACKERS + DECOY_HONEST, seed=11)
    honest = whole.select(range(1 + DECOY_ATTACKERS, len(whole)))
    deltas = whole.deltas.clone()
    decoy, attackers = deltas[:1, : whole.layout.num_trainable], deltas[1 : 1 + DECOY_ATTACKERS]
    mean = honest.trainable.mean(dim=0)
    attackers[:, : whole.layout.num_trainable] -= strength * mean
    if kind == "one entry":
        decoy[0, decoy.shape[1] // 2] = size
    elif kind == "all entries alike":
        decoy.fill_(size)
    else:
        drawn = torch.randn(len(mean), generator=generator(11, 0, 0, "decoy"))
        decoy.copy_(size * (drawn - mean * (drawn @ mean) / (mean @ mean)))
    return with_deltas(whole, deltas), honest


DISSIMILAR_CLIENTS = 12


def dissimilar_updates(server_round: int = 1) -> ClientUpdates:
    """Return a round of honest clients who share nothing, as where each holds a class of its own.

    Every client has its own direction, the same in all rounds; the directions add up to zero, so
    that most cosines between clients are negative. Noise of a third of their size comes on top.
    No client attacks.
    """
    drawn = honest_updates(
        DISSIMILAR_CLIENTS, seed=12, mean=0.0, std=0.03, server_round=server_round
    )
    size = drawn.layout.num_trainable
    own = torch.randn(DISSIMILAR_CLIENTS, size, generator=generator(12, 0, 0, "own classes"))
    deltas = drawn.deltas.clone()
    deltas[:, :size] += 0.1 * (own - own.mean(dim=0))
    return with_deltas(drawn, deltas)
