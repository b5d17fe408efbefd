"""Linear mixtures of a round's updates, computed block by block instead of as a second matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fedguard.updates import ClientUpdates

_ENTRIES_PER_BLOCK = 1 << 23


@dataclass(frozen=True, eq=False)
class Mixture:
    """The rows ``y_i = sum_j M_ij x_j``, followed by columns of their own.

    Attributes
    ----------
    matrix : Tensor
        (L, K) float32 coefficients M.
    rows : Tensor
        (K, T) float32 rows x; they are not copied.
    tail : Tensor
        (L, B) columns that follow the mixed ones; B can be 0.
    """

    matrix: Tensor
    rows: Tensor
    tail: Tensor

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return len(self), self.rows.shape[1] + self.tail.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the rows lie."""
        return self.rows.device

    def row(self, at: int) -> Tensor:
        """Return one row."""
        return torch.cat([self.matrix[at] @ self.rows, self.tail[at]])

    def combination(self, shares: Tensor) -> Tensor:
        """Return the sum of the rows by `shares` (L,); reads the rows x once."""
        return torch.cat([(shares @ self.matrix) @ self.rows, shares @ self.tail])

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of columns, where they lie and their (L, width) values.

        A block lasts until the next one is asked for, which takes its place in memory.
        """
        width = self.rows.shape[1]
        cuts = max(1, len(self) * width // _ENTRIES_PER_BLOCK)
        edges = [width * at // cuts for at in range(cuts + 1)]
        room = self.rows.new_empty(len(self) * -(-width // cuts))
        for start, end in pairwise(edges):
            block = room[: len(self) * (end - start)].view(len(self), end - start)
            self._mix(start, end, block)
            yield slice(start, end), block
        if self.tail.shape[1] > 0:
            yield slice(width, self.shape[1]), self.tail

    def _mix(self, start: int, end: int, out: Tensor) -> None:
        block = self.rows[:, start:end]
        diagonal = self.matrix.diagonal()
        if len(self) == len(self.rows) and torch.equal(torch.diag(diagonal), self.matrix):
            torch.mul(diagonal[:, None], block, out=out)
        else:
            torch.matmul(self.matrix, block, out=out)

    def dense(self) -> Tensor:
        """Return the rows as one (L, T + B) matrix."""
        result = torch.empty(self.shape, dtype=self.rows.dtype, device=self.device)
        for at, block in self.blocks():
            result[:, at] = block
        return result


Rows = Tensor | Mixture
"""(K, D) vectors, as a matrix or as a mixture of one."""


@dataclass(frozen=True, eq=False)
class MixedUpdates(ClientUpdates):
    """Updates that are a mixture of others; `deltas` is computed when a rule asks for it.

    Rules that read their rows through `all_rows` and `trainable_rows` need no second matrix.
    """

    deltas: Tensor = field(init=False, repr=False)
    mixture: Mixture = field(kw_only=True)

    def __getattr__(self, name: str) -> Any:
        if name != "deltas":
            raise AttributeError(name)
        object.__setattr__(self, "deltas", self.mixture.dense())
        return self.deltas


def all_rows(updates: ClientUpdates) -> Rows:
    """Return the (K, D) deltas, as a mixture where they are one."""
    return updates.mixture if isinstance(updates, MixedUpdates) else updates.deltas


def trainable_rows(updates: ClientUpdates) -> Rows:
    """Return the (K, T) trainable deltas, as a mixture where they are one."""
    if not isinstance(updates, MixedUpdates):
        return updates.trainable
    whole = updates.mixture
    return Mixture(whole.matrix, whole.rows, whole.tail[:, :0])


def combination(rows: Rows, shares: Tensor) -> Tensor:
    """Return the (D,) float32 sum of rows by `shares` (K,)."""
    shares = shares.to(torch.float32)
    return rows.combination(shares) if isinstance(rows, Mixture) else shares @ rows
