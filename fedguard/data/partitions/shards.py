"""Label skew by shards of sorted rows."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fedguard.data.partitions.base import Split, check_count, split_by_owner, start
from fedguard.errors import ConfigurationError


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
        check_count("shards_per_client", shards_per_client, 1)
        self.shards_per_client = shards_per_client

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Deal shards of sorted rows to the clients; see `Partition.split`."""
        y, rng = start(labels, num_clients, seed)
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
        return Split(split_by_owner(dealt, owners, num_clients))
