"""What model-poisoning attacks share: what they read, what they send, distances in float64.

Crafted vectors replace the trainable parameters only. Buffers such as BatchNorm statistics are
sent as the client's own training left them: a negative variance would break a model without
saying anything about the attack, and defences judge trainable parameters.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fedguard.attacks.base import Knowledge
from fedguard.updates import ClientUpdates

_COORDINATES_PER_BLOCK = 1 << 16

_LARGEST = torch.finfo(torch.float32).max


def _ordered(updates: ClientUpdates) -> ClientUpdates:
    """Return the updates by ascending node id, so that their order of arrival decides nothing."""
    order = sorted(range(len(updates)), key=updates.node_ids.__getitem__)
    return updates if order == list(range(len(updates))) else updates.select(order)


def visible_updates(coalition: ClientUpdates, knowledge: Knowledge) -> ClientUpdates:
    """Return the updates that the attacker reads; its own honest ones if it reads no others."""
    return _ordered(knowledge.updates if len(knowledge.updates) else coalition)


def benign_updates(coalition: ClientUpdates, knowledge: Knowledge) -> ClientUpdates:
    """Return the visible updates of clients outside the coalition.

    Where nothing outside is visible, the coalition's own honest updates stand in for them.
    """
    seen = visible_updates(coalition, knowledge)
    members = set(coalition.node_ids)
    rows = [row for row, node in enumerate(seen.node_ids) if node not in members]
    return seen.select(rows) if 0 < len(rows) < len(seen) else seen


def visible(coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
    """Return the (K, T) trainable deltas of `visible_updates`."""
    return visible_updates(coalition, knowledge).trainable


def spread(rows: Tensor) -> Tensor:
    """Return the (T,) standard deviation over (K, T) rows.

    One row says nothing of the spread; its absolute values stand in, so that an attacker who sees
    one update takes each coordinate to vary by its own size.
    """
    return rows[0].abs() if len(rows) == 1 else rows.std(dim=0, unbiased=False)


def norm(vector: Tensor) -> float:
    """Return the Euclidean norm, accumulated in float64."""
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


def send(coalition: ClientUpdates, vectors: Tensor) -> Tensor:
    """Return (F, D) deltas whose trainable part is `vectors`, (T,) or (F, T), kept finite."""
    crafted = coalition.deltas.clone()
    trainable = crafted[:, : coalition.layout.num_trainable]
    trainable.copy_(vectors)
    trainable.clamp_(-_LARGEST, _LARGEST)
    return crafted


def directions(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Return (F, T) random directions of length 1, on the CPU."""
    drawn = torch.randn(shape, generator=rng)
    drawn /= torch.linalg.vector_norm(drawn, dim=1, keepdim=True).clamp(min=1e-30)
    return drawn


def centred_blocks(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (columns, (K, B) float64 block) of the rows minus their mean, a block at a time."""
    for start in range(0, rows.shape[1], _COORDINATES_PER_BLOCK):
        columns = slice(start, start + _COORDINATES_PER_BLOCK)
        block = rows[:, columns].to(torch.float64)
        yield columns, block.sub_(block.mean(dim=0))


def centred_gram(rows: Tensor) -> Tensor:
    """Return the (K, K) float64 Gram matrix of (K, T) rows minus their mean."""
    gram = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for _, block in centred_blocks(rows):
        gram.addmm_(block, block.T)
    return gram


def gram_distances(gram: Tensor) -> Tensor:
    """Return the (K, K) squared distances that a Gram matrix holds."""
    norms = gram.diagonal()
    squared = norms[:, None] + norms[None, :] - 2.0 * gram
    return squared.clamp_(min=0.0).fill_diagonal_(0.0)
