"""Controls for every table: what one filter does alone, and the server without clients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, clip_factors, median
from fedguard.strategies.toolkit.claims import CLAIM_CAP, claimed_shares
from fedguard.strategies.toolkit.distances import shared_distances, shared_norms
from fedguard.strategies.toolkit.judged_round import JudgedRound
from fedguard.strategies.toolkit.server_training import check_training, server_update
from fedguard.strategies.toolkit.weight_view import copy_votes, reject_copies
from fedguard.updates import ClientUpdates, Verdict


class CopiesAlone(RobustStrategy):
    """Reject blocks of three or more near-identical updates, and average the rest."""

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the average without copies; see `RobustStrategy.combine`."""
        norms = shared_norms(updates)
        kept = np.ones(len(updates), dtype=bool)
        state = JudgedRound(updates, norms, kept, {}, {}, torch.ones_like(norms))
        if len(updates) >= 4:
            distance = np.asarray(shared_distances(updates).sqrt())
            reject_copies(state, copy_votes(distance, np.asarray(norms)))
        return _mean_of(updates, torch.as_tensor(state.keep), state.reasons, clip=False)


class LengthAlone(RobustStrategy):
    """Reject updates longer than a multiple of the median norm, clip the rest to it, average.

    Parameters
    ----------
    max_norm_ratio : float
        The multiple, above 1.
    """

    def __init__(self, *, max_norm_ratio: float = 2.5, **base: Any) -> None:
        super().__init__(**base)
        check_number("max_norm_ratio", max_norm_ratio, above=1)
        self.max_norm_ratio = max_norm_ratio

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the clipped average of what is not too long; see `RobustStrategy.combine`."""
        norms = shared_norms(updates)
        keep = norms <= self.max_norm_ratio * float(median(norms))
        reasons = {
            node: "longer than the others'"
            for node, kept in zip(updates.node_ids, keep.tolist(), strict=True)
            if not kept
        }
        return _mean_of(updates, keep, reasons, clip=True)


class ServerAlone(RobustStrategy):
    """Train on the server's labelled examples and on nothing else: what the clients must beat.

    Parameters
    ----------
    server_epochs, server_batch_size, server_lr : int, int, float
        Passes over the examples per round, examples per step, step size.
    """

    traits = RobustStrategy.traits.but(server_data="labelled", server_model=True)

    def __init__(
        self,
        *,
        server_epochs: int = 5,
        server_batch_size: int = 32,
        server_lr: float = 0.05,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_training(server_epochs, server_batch_size, server_lr)
        self.training = {"epochs": server_epochs, "batch_size": server_batch_size}
        self.server_lr = server_lr

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the server's own update; see `RobustStrategy.combine`."""
        if self.tools is None:
            delta = torch.zeros(updates.layout.size)
        else:
            delta = server_update(self, updates, **self.training, lr=self.server_lr)
        reasons = dict.fromkeys(updates.node_ids, "the server trains alone")
        return Verdict(delta, torch.zeros(len(updates)), {}, reasons)


def _mean_of(
    updates: ClientUpdates, keep: torch.Tensor, reasons: dict[int, str], *, clip: bool
) -> Verdict:
    """Return the average of the kept updates by claims, clipped to their median norm if asked."""
    shares = torch.where(keep, claimed_shares(updates, CLAIM_CAP), 0.0)
    total = float(shares.sum())
    if total <= 0.0:
        return Verdict(torch.zeros(updates.layout.size), torch.zeros(len(updates)), {}, reasons)
    weights = shares / total
    norms = shared_norms(updates)
    limit = float(median(norms[keep]))
    factors = clip_factors(norms, limit) if clip and limit > 0.0 else None
    return Verdict(average(updates, weights, factors), weights, {}, reasons)
