"""Group skew by the class of a row."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fedguard.data.partitions.base import Rows, Split, deal, split_by_owner, start
from fedguard.errors import ConfigurationError, check_number


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
        y, rng = start(labels, num_clients, seed)
        num_groups = min(num_classes, num_clients)
        groups = self._draw_groups(y % num_groups, num_groups, rng)
        dealt = []
        for group in range(num_groups):
            rows = np.flatnonzero(groups == group)
            clients = np.arange(group, num_clients, num_groups)
            if len(rows) < len(clients):
                allowed = f"fewer: group {group} has {len(rows)} rows for {len(clients)} clients"
                raise ConfigurationError("clients", num_clients, allowed)
            dealt.append(deal(rows, clients, rng))
        rows, owners = (np.concatenate(part) for part in zip(*dealt, strict=True))
        return Split(split_by_owner(rows, owners, num_clients))

    def _draw_groups(self, own: Rows, num_groups: int, rng: np.random.Generator) -> Rows:
        if num_groups == 1:
            return own
        elsewhere = rng.random(len(own)) >= self.q
        shift = rng.integers(1, num_groups, size=len(own))
        return np.where(elsewhere, (own + shift) % num_groups, own)
