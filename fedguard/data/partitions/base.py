"""What every split shares: its result, its random stream, and dealing rows to clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.errors import ConfigurationError
from fedguard.randomness import SERVER, numpy_generator

MAX_DRAWS = 1000
"""How often a random split is drawn again to give every client enough rows."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Which training rows each client holds.

    Attributes
    ----------
    indices : tuple of Tensor
        One ascending int64 index tensor per client; disjoint, none empty.
    noise_std : tuple of float, optional
        Standard deviation of the Gaussian noise each client's inputs carry, on the unscaled
        values; None where a split adds none.
    groups : tuple of str, optional
        What each client belongs to, such as its hospital; None where a split does not say.
    """

    indices: tuple[Tensor, ...]
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


def split_by_owner(rows: Rows, owners: Rows, num_clients: int) -> tuple[Tensor, ...]:
    """Return each client's rows, ascending; `owners` (as long as `rows`) names the client."""
    order = np.lexsort((rows, owners))
    sizes = np.bincount(owners, minlength=num_clients)
    grouped = torch.from_numpy(rows[order])
    return tuple(part.clone() for part in torch.split(grouped, sizes.tolist()))


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
    best = 0
    for _ in range(MAX_DRAWS):
        counts = draw()
        smallest = int(counts.reshape(-1, num_clients).sum(axis=0).min())
        if smallest >= min_samples:
            return counts
        best = max(best, smallest)
    reached = f"at most {best} (the best of {MAX_DRAWS} draws), or " if best else ""
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
