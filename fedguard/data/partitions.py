"""How the training rows are divided among the clients.

Each split is one assignment of rows to clients, computed with whole-array operations.
flwr-datasets defines the IID, Dirichlet, pathological and shard splits too, and the tests hold
these against it. It is not called here: importing it costs about six seconds, dividing 60,000
rows among 10,000 clients with it 15 to 22 (here a quarter of one), it gives up on a Dirichlet
split after ten repetitions, and for small concentrations it divides 0 by 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.errors import ConfigurationError, check_number
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
    """

    indices: tuple[Tensor, ...]
    noise_std: tuple[float, ...] | None = None


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


def _start(labels: Tensor, num_clients: int, seed: int) -> tuple[Rows, np.random.Generator]:
    """Check that every client can have a row; return the labels and the random stream."""
    if isinstance(num_clients, bool) or not isinstance(num_clients, int) or num_clients < 1:
        raise ConfigurationError("clients", num_clients, "a whole number >= 1")
    if num_clients > len(labels):
        allowed = f"at most {len(labels)}, the number of training rows"
        raise ConfigurationError("clients", num_clients, allowed)
    return labels.numpy().astype(np.int64), numpy_generator(seed, 0, SERVER, "partition")


def _check_count(field: str, value: int, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigurationError(field, value, f"a whole number >= {at_least}")


def _split_by_owner(rows: Rows, owners: Rows, num_clients: int) -> tuple[Tensor, ...]:
    """Return each client's rows, ascending; `owners` (as long as `rows`) names the client."""
    order = np.lexsort((rows, owners))
    sizes = np.bincount(owners, minlength=num_clients)
    grouped = torch.from_numpy(rows[order])
    return tuple(part.clone() for part in torch.split(grouped, sizes.tolist()))


def _even_sizes(total: int, parts: int) -> Rows:
    """Return `parts` sizes that add up to `total` and differ by at most one, larger first."""
    return np.full(parts, total // parts) + (np.arange(parts) < total % parts)


def _deal(rows: Rows, clients: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Deal shuffled `rows` evenly among `clients`; return rows and owners."""
    return rng.permutation(rows), np.repeat(clients, _even_sizes(len(rows), len(clients)))


def _draw_until(draw: Callable[[], Rows], total: int, num_clients: int, min_samples: int) -> Rows:
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


class Iid:
    """Shuffle the rows and give every client the same number, to within one."""

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Divide the rows evenly; see `Partition.split`."""
        y, rng = _start(labels, num_clients, seed)
        rows, owners = _deal(np.arange(len(y)), np.arange(num_clients), rng)
        return Split(_split_by_owner(rows, owners, num_clients))


class Dirichlet:
    r"""Label skew: each class is divided among the clients in Dirichlet proportions.

    For every class c, :math:`p_c \sim \mathrm{Dir}(\alpha \mathbf{1}_K)`; a client that already
    holds more than N / K rows takes no more (its proportion is set to 0 and the others are scaled
    up); class c is then cut at :math:`\lfloor n_c \sum_{j \le i} p_{cj} \rfloor`. The whole draw
    is repeated until every client has `min_samples` rows, at most `MAX_DRAWS` times.

    Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019;
    Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022 (label distribution skew).

    Parameters
    ----------
    alpha : float
        Concentration, > 0; the smaller, the fewer classes per client.
    min_samples : int
        Fewest rows a client may hold, >= 1.

    Notes
    -----
    Where every client that may still take rows drew a proportion of 0 (a concentration near 0
    underflows), the proportions are drawn again among those clients alone, which is the same
    distribution.
    """

    def __init__(self, alpha: float = 0.5, min_samples: int = 10) -> None:
        check_number("alpha", alpha, above=0.0)
        _check_count("min_samples", min_samples, 1)
        self.alpha = alpha
        self.min_samples = min_samples

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Divide every class in Dirichlet proportions; see `Partition.split`."""
        y, rng = _start(labels, num_clients, seed)
        classes, class_sizes = np.unique(y, return_counts=True)
        counts = _draw_until(
            lambda: self._draw(class_sizes, num_clients, rng),
            len(y),
            num_clients,
            self.min_samples,
        )
        rows = np.concatenate([rng.permutation(np.flatnonzero(y == c)) for c in classes])
        clients = np.tile(np.arange(num_clients), len(classes))
        return Split(_split_by_owner(rows, np.repeat(clients, counts.reshape(-1)), num_clients))

    def _draw(self, class_sizes: Rows, num_clients: int, rng: np.random.Generator) -> Rows:
        """Draw how many rows of each class each client gets: (classes, clients)."""
        counts = np.zeros((len(class_sizes), num_clients), dtype=np.int64)
        sizes = np.zeros(num_clients, dtype=np.int64)
        fair_share = class_sizes.sum() / num_clients
        for row, class_size in enumerate(class_sizes):
            shares = self._shares(sizes <= fair_share, rng)
            # Rounding must not hand the last row to a last client whose share is 0.
            cuts = (np.cumsum(shares) * class_size + 1e-9).astype(np.int64)
            cuts[-1] = class_size
            counts[row] = np.diff(cuts, prepend=0)
            sizes += counts[row]
        return counts

    def _shares(self, may_take: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64]:
        shares: NDArray[np.float64] = rng.dirichlet(np.full(len(may_take), self.alpha)) * may_take
        if not shares.sum() > 0:
            shares = np.zeros(len(may_take))
            shares[may_take] = _robust_dirichlet(self.alpha, int(may_take.sum()), rng)
        shares /= shares.sum()
        return shares


def _robust_dirichlet(alpha: float, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw from a symmetric Dirichlet; a draw that underflows puts all on one, its limit."""
    shares: NDArray[np.float64] = rng.dirichlet(np.full(size, alpha))
    if np.isfinite(shares).all() and shares.sum() > 0:
        return shares
    shares = np.zeros(size)
    shares[rng.integers(size)] = 1.0
    return shares


class Prob:
    r"""Group skew: a row of class y goes to y's group of clients with probability q.

    Client i belongs to group i mod G. A row of class y goes to group y mod G with probability q
    and to every other group with probability (1 - q) / (G - 1); the rows of a group are then
    dealt to its clients at random. q = 1 / G makes it IID.

    Fang et al., "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning", USENIX
    Security 2020; Cao et al., "FLTrust", NDSS 2021.

    Parameters
    ----------
    q : float
        Probability that a row lands in its class's own group, in [0, 1].

    Notes
    -----
    The papers have as many groups as classes, G = C. With fewer clients than classes G is the
    number of clients, so that classes y and y + G share a group. The papers draw the client of
    each row independently; here a group's rows are shuffled and dealt evenly, which keeps a
    client from ending with nothing.
    """

    def __init__(self, q: float = 0.5) -> None:
        check_number("q", q, at_least=0.0, at_most=1.0)
        self.q = q

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Divide the rows by class groups; see `Partition.split`."""
        y, rng = _start(labels, num_clients, seed)
        num_groups = min(num_classes, num_clients)
        groups = self._draw_groups(y % num_groups, num_groups, rng)
        dealt = []
        for group in range(num_groups):
            rows = np.flatnonzero(groups == group)
            clients = np.arange(group, num_clients, num_groups)
            if len(rows) < len(clients):
                allowed = f"fewer: group {group} has {len(rows)} rows for {len(clients)} clients"
                raise ConfigurationError("clients", num_clients, allowed)
            dealt.append(_deal(rows, clients, rng))
        rows, owners = (np.concatenate(part) for part in zip(*dealt, strict=True))
        return Split(_split_by_owner(rows, owners, num_clients))

    def _draw_groups(self, own: Rows, num_groups: int, rng: np.random.Generator) -> Rows:
        if num_groups == 1:
            return own
        elsewhere = rng.random(len(own)) >= self.q
        shift = rng.integers(1, num_groups, size=len(own))
        return np.where(elsewhere, (own + shift) % num_groups, own)


class LabelQuantity:
    """Label skew: every client holds exactly `labels_per_client` classes.

    Client i holds class i mod C and `labels_per_client` - 1 others drawn at random; the rows of a
    class are shuffled and divided evenly among the clients that hold it. Rows of a class that no
    client holds (possible only with fewer clients than classes) are left out.

    Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022 (quantity-based label
    imbalance).

    Parameters
    ----------
    labels_per_client : int
        Classes per client, from 1 to the number of classes.
    """

    def __init__(self, labels_per_client: int = 2) -> None:
        _check_count("labels_per_client", labels_per_client, 1)
        self.labels_per_client = labels_per_client

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Divide every class among the clients that hold it; see `Partition.split`."""
        y, rng = _start(labels, num_clients, seed)
        classes = np.unique(y)
        if self.labels_per_client > len(classes):
            raise ConfigurationError(
                "partition.labels_per_client",
                self.labels_per_client,
                f"at most {len(classes)}, the number of classes",
            )
        holds = self._draw_holders(len(classes), num_clients, rng)
        dealt = []
        for column, label in enumerate(classes):
            rows, holders = np.flatnonzero(y == label), np.flatnonzero(holds[:, column])
            if len(holders) > len(rows):
                allowed = f"fewer: class {label} has {len(rows)} rows for {len(holders)} clients"
                raise ConfigurationError("clients", num_clients, allowed)
            if len(holders):
                dealt.append(_deal(rows, holders, rng))
        rows, owners = (np.concatenate(part) for part in zip(*dealt, strict=True))
        return Split(_split_by_owner(rows, owners, num_clients))

    def _draw_holders(
        self, num_classes: int, num_clients: int, rng: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Draw which client holds which class: (clients, classes)."""
        clients = np.arange(num_clients)
        keys = rng.random((num_clients, num_classes))
        keys[clients, clients % num_classes] = -1.0
        chosen = np.argsort(keys, axis=1)[:, : self.labels_per_client]
        holds = np.zeros((num_clients, num_classes), dtype=np.bool_)
        holds[clients[:, None], chosen] = True
        return holds


class Quantity:
    r"""Quantity skew: IID rows, client sizes in Dirichlet proportions.

    :math:`p \sim \mathrm{Dir}(\alpha \mathbf{1}_K)`; the shuffled rows are cut at
    :math:`\lfloor N \sum_{j \le i} p_j \rfloor`. Drawn again until every client has
    `min_samples` rows, at most `MAX_DRAWS` times.

    Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022 (quantity skew).

    Parameters
    ----------
    alpha : float
        Concentration, > 0; the smaller, the more unequal the sizes.
    min_samples : int
        Fewest rows a client may hold, >= 1.
    """

    def __init__(self, alpha: float = 0.5, min_samples: int = 10) -> None:
        check_number("alpha", alpha, above=0.0)
        _check_count("min_samples", min_samples, 1)
        self.alpha = alpha
        self.min_samples = min_samples

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Divide the rows into unequal IID parts; see `Partition.split`."""
        y, rng = _start(labels, num_clients, seed)

        def draw() -> Rows:
            shares = _robust_dirichlet(self.alpha, num_clients, rng)
            cuts = (np.cumsum(shares) * len(y)).astype(np.int64)
            cuts[-1] = len(y)
            return np.diff(cuts, prepend=0)

        sizes = _draw_until(draw, len(y), num_clients, self.min_samples)
        owners = np.repeat(np.arange(num_clients), sizes)
        return Split(_split_by_owner(rng.permutation(len(y)), owners, num_clients))


class Noise(Iid):
    r"""Feature skew: an IID split in which client i's inputs carry noise of level i.

    Client i of K adds :math:`\mathcal{N}(0, \sigma_i^2)` with
    :math:`\sigma_i = \sigma\, i / (K - 1)` to its inputs; a single client adds none.

    Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022 (noise-based feature
    imbalance). The authors' code takes the level as a standard deviation, their text as a
    variance; here it is a standard deviation.

    Parameters
    ----------
    sigma : float
        Standard deviation at the last client, >= 0, on the unscaled inputs (images: [0, 1]).
    """

    def __init__(self, sigma: float = 0.1) -> None:
        check_number("sigma", sigma, at_least=0.0)
        self.sigma = sigma

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Divide the rows evenly and name each client's noise; see `Partition.split`."""
        indices = super().split(labels, num_classes, num_clients, seed).indices
        last = max(num_clients - 1, 1)
        return Split(indices, tuple(self.sigma * i / last for i in range(num_clients)))


class Shards:
    r"""Label skew: rows sorted by label, cut into equal shards, a few shards per client.

    Each of K clients gets s random shards of :math:`\lfloor N / (K s) \rfloor` consecutive rows
    of the sorted data; rows that fill no shard, fewer than K s, are left out.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    AISTATS 2017.

    Parameters
    ----------
    shards_per_client : int
        Shards per client, >= 1.
    """

    def __init__(self, shards_per_client: int = 2) -> None:
        _check_count("shards_per_client", shards_per_client, 1)
        self.shards_per_client = shards_per_client

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Deal shards of sorted rows to the clients; see `Partition.split`."""
        y, rng = _start(labels, num_clients, seed)
        num_shards = num_clients * self.shards_per_client
        if num_shards > len(y):
            allowed = f"at most {len(y) // num_clients} with {num_clients} clients on {len(y)} rows"
            raise ConfigurationError("partition.shards_per_client", self.shards_per_client, allowed)
        size = len(y) // num_shards
        shuffled = rng.permutation(len(y))
        by_label = shuffled[np.argsort(y[shuffled], kind="stable")]
        shards = by_label[: num_shards * size].reshape(num_shards, size)
        dealt = shards[rng.permutation(num_shards)].reshape(-1)
        owners = np.repeat(np.arange(num_clients), self.shards_per_client * size)
        return Split(_split_by_owner(dealt, owners, num_clients))
