"""An even split at random."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fedguard.data.partitions.base import Split, deal, split_by_owner, start


class Iid:
    """Shuffle the rows and give every client the same number, to within one."""

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Divide the rows evenly; see `Partition.split`."""
        y, rng = start(labels, num_clients, seed)
        rows, owners = deal(np.arange(len(y)), np.arange(num_clients), rng)
        return Split(split_by_owner(rows, owners, num_clients))
