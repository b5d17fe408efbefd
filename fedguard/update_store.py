"""A round's updates in a file: written row by row, read in blocks of columns.

A file that is read by position, and not a mapping: a mapping's pages count as the process's own
until the kernel takes them back, and a limit on memory would mean nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast, overload

import torch
from torch import Tensor

T = TypeVar("T")

Task = Callable[[slice], Callable[[Any], T]]
"""Takes the place of a block of columns, and returns what is to be made of its values."""

StoredType = Literal["float32", "bfloat16"]
"""How a number is kept: exactly, or with 8 of its 24 significant bits (relative error 2^-9)."""

TYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_LARGEST_BLOCK = 1 << 26
"""Bytes of a block at most; larger ones are no faster."""


class UpdateStore:
    """A (K, D) matrix in a file that nobody else can open and that ends with the process.

    The file is unlinked as soon as it is open: the kernel takes its room back when it is closed,
    also where the process is killed.

    Parameters
    ----------
    folder : Path
        Where the file lies; a file system with K x D x 4 bytes of room (2 for bfloat16).
    rows, columns : int
        K and D, each at least 1.
    memory : int
        Bytes that blocks may take, two of them at a time.
    kind : str
        ``"float32"`` or ``"bfloat16"``.

    Raises
    ------
    OSError
        If the folder cannot be written, or has not so much room.
    """

    def __init__(
        self, folder: Path, rows: int, columns: int, memory: int, kind: StoredType = "float32"
    ) -> None:
        self.dtype = TYPES[kind]
        self.columns = columns
        self.peaks = torch.zeros(rows)
        """(K,) largest absolute value of each row, NaN where it holds one."""
        self.block_bytes = max(1, min(_LARGEST_BLOCK, memory // 2))
        self.generation = 0
        self._row_bytes = columns * self.dtype.itemsize
        # Unnamed, or unlinked at once where the file system has no unnamed files.
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        try:
            os.posix_fallocate(self._file.fileno(), 0, rows * self._row_bytes)
        except OSError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.peaks)

    def begin(self, count: int) -> StoredRows:
        """Return the first `count` rows for a new round; what was read of the last one is gone."""
        self.generation += 1
        return StoredRows(self, tuple(range(count)), 0, self.columns)

    def write(self, first: int, values: Tensor) -> None:
        """Write (n, D) rows from row `first` on."""
        low, high = values.aminmax(dim=1)
        self.peaks[first : first + len(values)] = torch.maximum(-low, high).cpu()
        for row, value in enumerate(values.detach().cpu().to(self.dtype), start=first):
            _write(self._file.fileno(), _bytes_of(value.contiguous()), row * self._row_bytes)

    def read(self, rows: Sequence[int], start: int, out: Tensor) -> None:
        """Read columns from `start` on of some rows into `out` (n, width), contiguous float32."""
        width, size = out.shape[1], self.dtype.itemsize
        narrow = out if self.dtype == out.dtype else torch.empty(width, dtype=self.dtype)
        for place, row in enumerate(rows):
            into = narrow[place] if narrow is out else narrow
            _read(self._file.fileno(), _bytes_of(into), row * self._row_bytes + start * size)
            if narrow is not out:
                out[place] = narrow

    def blocks(self, rows: Sequence[int], first: int, last: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of columns from `first` to `last`, by their place from `first` on.

        The next block is read while one is worked on; a block lasts until the next is asked for.
        """
        size, count = last - first, len(rows)
        width = max(1, min(self.block_bytes // (4 * max(count, 1)), size))
        starts = range(0, size, width)
        rooms = [torch.empty(count * width) for _ in range(min(2, len(starts)))]

        def load(number: int) -> tuple[slice, Tensor]:
            start = starts[number]
            end = min(start + width, size)
            room = rooms[number % 2][: count * (end - start)].view(count, end - start)
            self.read(rows, first + start, room)
            return slice(start, end), room

        with ThreadPoolExecutor(1) as reader:
            waiting = reader.submit(load, 0) if len(starts) else None
            for number in range(len(starts)):
                assert waiting is not None
                found = waiting.result()
                if number + 1 < len(starts):
                    waiting = reader.submit(load, number + 1)
                yield found

    def each(self, rows: Sequence[int], first: int, last: int, task: Task[T]) -> Iterator[T]:
        """Yield what a function makes of each block of columns; see `StoredRows.each`."""
        for at, block in self.blocks(rows, first, last):
            yield task(at)(block)

    def close(self) -> None:
        """Let go of the file, and so of its room on disk."""
        self._file.close()


class Store(Protocol):
    """What keeps a round's updates out of the memory of the process that aggregates them.

    Attributes
    ----------
    columns : int
        Parameters D.
    generation : int
        Counts the rounds.
    peaks : Tensor
        (K,) largest absolute value of each row, NaN where it holds one.
    """

    columns: int
    generation: int
    peaks: Tensor

    def write(self, first: int, values: Tensor) -> None:
        """Write (n, D) rows from row `first` on."""

    def read(self, rows: Sequence[int], start: int, out: Tensor) -> None:
        """Read columns from `start` on of some rows into `out` (n, width)."""

    def blocks(self, rows: Sequence[int], first: int, last: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of columns, read into memory, by their place from `first` on."""
        ...

    def each(self, rows: Sequence[int], first: int, last: int, task: Task[T]) -> Iterator[T]:
        """Yield what a function makes of each block of columns; see `StoredRows.each`."""
        ...


class StoredRows:
    """Rows of a store, or some columns of them, that stand where a (K, D) matrix would.

    Attributes
    ----------
    index : tuple of int
        Numbers of the store's rows.
    first, last : int
        The columns.
    """

    ndim = 2
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, store: Store, index: tuple[int, ...], first: int, last: int) -> None:
        self.index, self.first, self.last = index, first, last
        self._store, self._generation = store, store.generation

    @property
    def store(self) -> Store:
        """Where they lie; a round's rows cannot be read once the next round's are written."""
        if self._generation != self._store.generation:
            raise RuntimeError("these updates are of an earlier round, which was written over")
        return self._store

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> torch.Size:
        """Number of rows and of columns."""
        return torch.Size((len(self.index), self.last - self.first))

    @property
    def peaks(self) -> Tensor:
        """(K,) largest absolute values of the whole rows."""
        return self.store.peaks[list(self.index)]

    @overload
    def __getitem__(self, at: int | tuple[slice, Tensor]) -> Tensor: ...
    @overload
    def __getitem__(
        self, at: slice | Tensor | Sequence[int] | tuple[slice, slice]
    ) -> StoredRows: ...
    def __getitem__(
        self, at: int | slice | Tensor | Sequence[int] | tuple[slice, slice] | tuple[slice, Tensor]
    ) -> Tensor | StoredRows:
        """Return rows or a range of columns as they lie in the file.

        One row, and single columns of all rows by their numbers, are read into a tensor.
        """
        if isinstance(at, int):
            return self.row(at)
        if isinstance(at, slice):
            return StoredRows(self.store, self.index[at], self.first, self.last)
        if isinstance(at, tuple) and isinstance(at[1], slice):
            start, end, step = at[1].indices(self.last - self.first)
            if step != 1:
                raise IndexError("columns of stored updates are read in one piece")
            index = self.index[cast(slice, at[0])]
            return StoredRows(self.store, index, self.first + start, self.first + end)
        if isinstance(at, tuple):
            return self._picked(cast(Tensor, at[1]))
        chosen = torch.as_tensor(at)
        places = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen
        picked = tuple(self.index[int(place)] for place in places)
        return StoredRows(self.store, picked, self.first, self.last)

    def _picked(self, columns: Tensor) -> Tensor:
        """Return the values of some columns of all rows, read row by row."""
        return torch.stack([row[columns] for row in self])

    def __setitem__(self, at: int, value: Tensor) -> None:
        """Write a whole row anew."""
        if (self.first, self.last) != (0, self.store.columns):
            raise IndexError("stored updates are written in whole rows")
        self.store.write(self.index[at], value[None])

    def __iter__(self) -> Iterator[Tensor]:
        return (self.row(place) for place in range(len(self)))

    def row(self, at: int) -> Tensor:
        """Return one row, read into memory."""
        found = torch.empty(1, self.last - self.first)
        self.store.read([self.index[at]], self.first, found)
        return found[0]

    def tensor(self) -> Tensor:
        """Return all of it, read into memory."""
        found = torch.empty(self.shape)
        self.store.read(self.index, self.first, found)
        return found

    def combination(self, shares: Tensor) -> Tensor:
        """Return the sum of the rows by `shares` (K,) float32."""
        return torch.cat(list(self.each(lambda _: partial(torch.matmul, shares))))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of columns, read into memory: where they lie, and their (K, width) values.

        A block lasts until the next is asked for.
        """
        return self.store.blocks(self.index, self.first, self.last)

    def each(self, task: Task[T]) -> Iterator[T]:
        """Yield what a function makes of each block of columns, in order, where the block lies.

        Parameters
        ----------
        task : callable
            Takes the place of a block and returns the function of its (K, width) values; it can
            be pickled, and keeps nothing of them.
        """
        return self.store.each(self.index, self.first, self.last, task)


def _bytes_of(values: Tensor) -> memoryview:
    return values.view(torch.uint8).numpy().data


def _write(descriptor: int, content: memoryview, at: int) -> None:
    while content:
        done = os.pwrite(descriptor, content, at)
        content, at = content[done:], at + done


def _read(descriptor: int, into: memoryview, at: int) -> None:
    while into:
        done = os.preadv(descriptor, [into], at)
        if done == 0:
            raise OSError(f"a file of updates ends before byte {at}")
        into, at = into[done:], at + done
