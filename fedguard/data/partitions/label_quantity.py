"""Label skew by the number of classes that a client holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedguard.data.partitions.base import Split, check_count, deal, split_by_owner, start
from fedguard.errors import ConfigurationError


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
        check_count("labels_per_client", labels_per_client, 1)
        self.labels_per_client = labels_per_client

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Divide every class among the clients that hold it; see `Partition.split`."""
        y, rng = start(labels, num_clients, seed)
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
                dealt.append(deal(rows, holders, rng))
        rows, owners = (np.concatenate(part) for part in zip(*dealt, strict=True))
        return Split(split_by_owner(rows, owners, num_clients))

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
