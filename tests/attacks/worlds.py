"""Rounds for tests of attacks: honest updates, a coalition and what it knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedguard.attacks.base import Knowledge, KnowledgeScope
from fedguard.randomness import generator
from fedguard.updates import ClientUpdates, ParameterLayout, Verdict


def rows(count: int, size: int = 300, *, mean: float = 0.05, std: float = 0.1) -> Tensor:
    """Return (count, size) rows from N(mean, std^2)."""
    stream = generator(count, 0, size, "attack tests")
    return mean + std * torch.randn(count, size, generator=stream)


def a_round(
    deltas: Tensor,
    malicious: int = 2,
    *,
    scope: KnowledgeScope = "full",
    aggregate: Callable[[ClientUpdates], Tensor] | None = None,
    verdicts: Callable[[Sequence[ClientUpdates]], list[Verdict]] | None = None,
    last_update: Tensor | None = None,
    layout: ParameterLayout | None = None,
    global_vector: Tensor | None = None,
    server_round: int = 1,
) -> tuple[ClientUpdates, Knowledge]:
    """Return the coalition (the first rows) and its knowledge of the others' updates.

    With full knowledge the attacker sees the rows of the other clients; where there are none,
    and with partial knowledge, its own.
    """
    updates = ClientUpdates.from_matrix(
        deltas,
        node_ids=[10 + 3 * row for row in range(len(deltas))],
        layout=layout,
        global_vector=global_vector,
        server_round=server_round,
    )
    coalition = updates.select(range(malicious))
    others = updates.select(range(malicious, len(updates)))
    knowledge = Knowledge(
        scope=scope,
        updates=others if scope == "full" and len(others) else coalition,
        cohort_size=len(updates),
        num_malicious=malicious,
        server_round=server_round,
        generator=generator(7, server_round, 0, "coalition"),
        aggregate=aggregate,
        verdicts=verdicts,
        last_update=last_update,
    )
    return coalition, knowledge


def images(count: int, side: int = 12, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Return random images strictly inside (0, 1) and labels 0 to 9 in turn."""
    stream = generator(count, side, channels, "attack test images")
    x = 0.1 + 0.8 * torch.rand(count, channels, side, side, generator=stream)
    return x, torch.arange(count) % 10
