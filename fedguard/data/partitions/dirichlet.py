"""Label skew in Dirichlet proportions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedguard.data.partitions.base import (
    Rows,
    Split,
    check_count,
    draw_until,
    robust_dirichlet,
    split_by_owner,
    start,
)
from fedguard.errors import check_number


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
        check_count("min_samples", min_samples, 1)
        self.alpha = alpha
        self.min_samples = min_samples

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Divide every class in Dirichlet proportions; see `Partition.split`."""
        y, rng = start(labels, num_clients, seed)
        classes, class_sizes = np.unique(y, return_counts=True)
        counts = draw_until(
            lambda: self._draw(class_sizes, num_clients, rng),
            len(y),
            num_clients,
            self.min_samples,
        )
        rows = np.concatenate([rng.permutation(np.flatnonzero(y == c)) for c in classes])
        clients = np.tile(np.arange(num_clients), len(classes))
        return Split(split_by_owner(rows, np.repeat(clients, counts.reshape(-1)), num_clients))

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
            shares[may_take] = robust_dirichlet(self.alpha, int(may_take.sum()), rng)
        shares /= shares.sum()
        return shares
