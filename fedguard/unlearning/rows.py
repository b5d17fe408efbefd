"""Which of a client's rows a request names."""

from __future__ import annotations

import torch
from torch import Tensor

from fedguard.clients.federation import Federation
from fedguard.randomness import generator


def forgotten_rows(
    federation: Federation, client: int, label: int | None, share: float | None
) -> Tensor:
    """Return the positions, within a client's shard, of the rows that a request names.

    Labels are those that the client trains with: a malicious client's poisoned ones.
    """
    _, y = federation.shard(client, attacking=True)
    if label is not None:
        return (y == label).nonzero().flatten().cpu()
    everything = torch.arange(len(y))
    if share is None:
        return everything
    stream = generator(federation.seed, 0, client, "forgotten rows")
    order = torch.randperm(len(y), generator=stream)
    return order[: max(1, round(share * len(y)))].sort().values
