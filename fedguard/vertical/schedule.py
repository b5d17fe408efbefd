"""Which rows are trained on together: one order of the ids per round, the same for every party."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedguard.randomness import SERVER, generator


@dataclass(frozen=True)
class BatchSchedule:
    """Aligned mini-batches of row ids; every row once in a round.

    Parameters
    ----------
    rows : int
        Number of rows N that all parties share, ids 0 to N - 1.
    batch_size : int
        Rows per batch; the last one may be smaller.
    seed : int
        Seed of the run.
    """

    rows: int
    batch_size: int
    seed: int

    def batches(self, server_round: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (number, ids) of each batch of a round."""
        stream = generator(self.seed, server_round, SERVER, "vertical-batches")
        order = torch.randperm(self.rows, generator=stream)
        yield from enumerate(torch.split(order, self.batch_size))
