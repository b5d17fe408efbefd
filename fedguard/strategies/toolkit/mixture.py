"""Linear mixtures of a round's updates, computed block by block instead of as a second matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedguard.update_store import StoredRows, Task
from fedguard.updates import ClientUpdates

T = TypeVar("T")

_ENTRIES_PER_BLOCK = 1 << 23
"""Most entries of a block and of what it is mixed from: a product may copy either of its sides."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """The rows ``y_i = sum_j M_ij x_j``, followed by columns of their own.

    Attributes
    ----------
    matrix : Tensor
        (L, K) float32 coefficients M.
    rows : Tensor or StoredRows
        (K, T) float32 rows x; they are not copied.
    tail : Tensor
        (L, B) columns that follow the mixed ones; B can be 0.
    """

    matrix: Tensor
    rows: Tensor | StoredRows
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
        return torch.cat([combination(self.rows, self.matrix[at]), self.tail[at]])

    def combination(self, shares: Tensor) -> Tensor:
        """Return the sum of the rows by `shares` (L,); reads the rows x once."""
        return torch.cat([combination(self.rows, shares @ self.matrix), shares @ self.tail])

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of columns, where they lie and their (L, width) values.

        A block lasts until the next one is asked for, which takes its place in memory.
        """
        width = self.rows.shape[1]
        room = self.tail.new_empty(0)
        for at, block in self._sources():
            size = len(self) * block.shape[1]
            room = room if len(room) >= size else self.tail.new_empty(size)
            mixed = room[:size].view(len(self), -1)
            self._mix(block, mixed)
            yield at, mixed
        if self.tail.shape[1] > 0:
            yield slice(width, self.shape[1]), self.tail

    def each(self, task: Task[T]) -> Iterator[T]:
        """Yield what a function makes of each block of columns, in order.

        Where the rows x lie elsewhere they are mixed there, and only the results travel.

        Parameters
        ----------
        task : callable
            Takes the place of a block and returns the function of its values, which can be pickled.
        """
        if isinstance(self.rows, Tensor):
            for at, block in self.blocks():
                yield task(at)(block)
            return
        yield from self.rows.each(lambda at: partial(_of_mixture, self.matrix, task(at)))
        if self.tail.shape[1] > 0:
            yield task(slice(self.rows.shape[1], self.shape[1]))(self.tail)

    def _sources(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of columns of the rows x."""
        if not isinstance(self.rows, Tensor):
            yield from self.rows.blocks()
            return
        width = self.rows.shape[1]
        cuts = max(1, max(len(self), len(self.rows)) * width // _ENTRIES_PER_BLOCK)
        for start, end in pairwise([width * at // cuts for at in range(cuts + 1)]):
            yield slice(start, end), self.rows[:, start:end]

    def _mix(self, block: Tensor, out: Tensor) -> None:
        diagonal = self.matrix.diagonal()
        if len(self) == len(self.rows) and torch.equal(torch.diag(diagonal), self.matrix):
            torch.mul(diagonal[:, None], block, out=out)
        else:
            torch.matmul(self.matrix, block, out=out)

    def dense(self) -> Tensor:
        """Return the rows as one (L, T + B) matrix."""
        result = torch.empty(self.shape, dtype=self.tail.dtype, device=self.device)
        for at, block in self.blocks():
            result[:, at] = block
        return result


def _of_mixture(matrix: Tensor, function: Callable[[Any], T], block: Tensor) -> T:
    return function(Mixture(matrix, block, block.new_empty(len(matrix), 0)))


Rows = Tensor | Mixture | StoredRows
"""(K, D) vectors: a matrix, a mixture of one, or a matrix in a file."""


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
        if isinstance(self.mixture.rows, StoredRows):
            raise RuntimeError("updates in a file are not mixed into a matrix; see Traits.blocks")
        object.__setattr__(self, "deltas", self.mixture.dense())
        return self.deltas


def all_rows(updates: ClientUpdates) -> Rows:
    """Return the (K, D) deltas, as a mixture where they are one, or where the file holds them."""
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
    return shares @ rows if isinstance(rows, Tensor) else rows.combination(shares)
