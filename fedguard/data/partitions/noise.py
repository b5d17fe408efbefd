"""Clients whose inputs carry noise of different strength."""

from __future__ import annotations

from torch import Tensor

from fedguard.data.partitions.base import Split
from fedguard.data.partitions.iid import Iid
from fedguard.errors import check_number


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
