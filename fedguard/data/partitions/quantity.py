"""Clients of unequal size."""

from __future__ import annotations

import numpy as np
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
        check_count("min_samples", min_samples, 1)
        self.alpha = alpha
        self.min_samples = min_samples

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Divide the rows into unequal IID parts; see `Partition.split`."""
        y, rng = start(labels, num_clients, seed)

        def draw() -> Rows:
            shares = robust_dirichlet(self.alpha, num_clients, rng)
            cuts = (np.cumsum(shares) * len(y)).astype(np.int64)
            cuts[-1] = len(y)
            return np.diff(cuts, prepend=0)

        sizes = draw_until(draw, len(y), num_clients, self.min_samples)
        owners = np.repeat(np.arange(num_clients), sizes)
        return Split(split_by_owner(rng.permutation(len(y)), owners, num_clients))
