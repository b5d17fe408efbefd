"""What every split shares: its result, its random stream, and dealing rows to clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.errors import ConfigurationError
from fedguard.randomness import SERVER, numpy_generator

MAX_DRAWS = 1000
"""How often a random split is drawn again to give every client enough rows."""

_FIRST_DRAWS, _HOPELESS = 10, 1000
"""Where each of the first draws leaves so many clients short, none of the others will do."""

Rows = NDArray[np.int64]


class Divided(Sequence[Tensor]):
    """The rows of all clients in one tensor; a client's are a view of it, made when asked for.

    A million tensors of two rows take seconds to make and half a gigabyte to keep.

    Parameters
    ----------
    rows : Tensor
        (N,) int64 rows of the first client, then of the second, ...
    starts : ndarray
        (K + 1,) where each client's rows begin, and the end.
    """

    def __init__(self, rows: Tensor, starts: Rows) -> None:
        self.rows, self.starts = rows, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, client: int) -> Tensor: ...
    @overload
    def __getitem__(self, client: slice) -> list[Tensor]: ...
    def __getitem__(self, client: int | slice) -> Tensor | list[Tensor]:
        if isinstance(client, slice):
            return [self[one] for one in range(*client.indices(len(self)))]
        place = client + len(self) if client < 0 else client
        if not 0 <= place < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        return self.rows[int(self.starts[place]) : int(self.starts[place + 1])]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[client] for client in range(len(self)))

    def among(self, rows: Tensor) -> Divided:
        """Return the same division of other rows: each entry is a place in `rows` (M,)."""
        return Divided(rows[self.rows], self.starts)


@dataclass(frozen=True)
class Split:
    """Which training rows each client holds.

    Attributes
    ----------
    indices : sequence of Tensor
        One ascending int64 index tensor per client; disjoint, none empty.
    noise_std : tuple of float, optional
        Standard deviation of the Gaussian noise each client's inputs carry, on the unscaled
        values; None where a split adds none.
    groups : tuple of str, optional
        What each client belongs to, such as its hospital; None where a split does not say.
    """

    indices: Sequence[Tensor]
    noise_std: tuple[float, ...] | None = None
    groups: tuple[str, ...] | None = None


class Partition(Protocol):
    """A registered partition: constructor arguments are its options."""

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Divide the rows with these `labels` among `num_clients` clients.

        Raises
        ------
        ConfigurationError
            If some client would end with no rows, or fewer than the option demands.
        """
        ...


def start(labels: Tensor, num_clients: int, seed: int) -> tuple[Rows, np.random.Generator]:
    """Check that every client can have a row; return the labels and the random stream."""
    if isinstance(num_clients, bool) or not isinstance(num_clients, int) or num_clients < 1:
        raise ConfigurationError("clients", num_clients, "a whole number >= 1")
    if num_clients > len(labels):
        allowed = f"at most {len(labels)}, the number of training rows"
        raise ConfigurationError("clients", num_clients, allowed)
    return labels.numpy().astype(np.int64), numpy_generator(seed, 0, SERVER, "partition")


def check_count(field: str, value: int, at_least: int) -> None:
    """Raise `ConfigurationError` unless `value` is a whole number >= `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigurationError(field, value, f"a whole number >= {at_least}")


def split_by_owner(rows: Rows, owners: Rows, num_clients: int) -> Divided:
    """Return each client's rows, ascending; `owners` (as long as `rows`) names the client."""
    most = int(rows.max(initial=0)) + 1
    # One sort of whole numbers, some ten times as fast as sorting by two keys.
    ordered = np.sort(owners.astype(np.int64) * most + rows) % most
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=num_clients))])
    return Divided(torch.from_numpy(ordered), starts)


def even_sizes(total: int, parts: int) -> Rows:
    """Return `parts` sizes that add up to `total` and differ by at most one, larger first."""
    return np.full(parts, total // parts) + (np.arange(parts) < total % parts)


def deal(rows: Rows, clients: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Deal shuffled `rows` evenly among `clients`; return rows and owners."""
    return rng.permutation(rows), np.repeat(clients, even_sizes(len(rows), len(clients)))


def draw_until(draw: Callable[[], Rows], total: int, num_clients: int, min_samples: int) -> Rows:
    """Return the first draw of counts (..., K) that gives every client `min_samples` rows."""
    if min_samples * num_clients > total:
        allowed = f"at most {total // num_clients} with {num_clients} clients on {total} rows"
        raise ConfigurationError("partition.min_samples", min_samples, allowed)
    best, draws, fewest = 0, 0, num_clients
    while draws < (_FIRST_DRAWS if fewest >= _HOPELESS else MAX_DRAWS):
        counts = draw()
        sizes = counts.reshape(-1, num_clients).sum(axis=0)
        smallest, draws = int(sizes.min()), draws + 1
        if smallest >= min_samples:
            return counts
        best, fewest = max(best, smallest), min(fewest, int((sizes < min_samples).sum()))
    reached = f"at most {best} (the best of {draws} draws), or " if best else ""
    allowed = f"{reached}a larger partition.alpha, or fewer clients than {num_clients}"
    raise ConfigurationError("partition.min_samples", min_samples, allowed)


def robust_dirichlet(alpha: float, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw from a symmetric Dirichlet; a draw that underflows puts all on one, its limit."""
    shares: NDArray[np.float64] = rng.dirichlet(np.full(size, alpha))
    if np.isfinite(shares).all() and shares.sum() > 0:
        return shares
    shares = np.zeros(size)
    shares[rng.integers(size)] = 1.0
    return shares
