"""What the average of some of a round's clients would score on the server's examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.strategies.toolkit.averaging import average
from fedguard.strategies.toolkit.scoring import Scores, score_models
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.updates import ClientUpdates


@dataclass(frozen=True)
class ScoredAverage:
    """How the round's updates are averaged, and what the average would score.

    Attributes
    ----------
    tools : ServerTools
        Model and validation examples.
    updates : ClientUpdates
        The round.
    claims : Tensor
        (K,) float64 sizes that weigh the clients.
    factors : Tensor or None
        (K,) by what updates are clipped.
    """

    tools: ServerTools
    updates: ClientUpdates
    claims: Tensor
    factors: Tensor | None

    @property
    def examples(self) -> NDArray[np.int64]:
        """(C,) validation examples of each class."""
        counts = self.tools.y.bincount(minlength=self.tools.num_classes)
        return np.asarray(counts.cpu().numpy(), dtype=np.int64)

    def weights(self, soft: NDArray[np.float64]) -> Tensor:
        """Return (K,) weights in proportion to claims times `soft`; all 0 where these are."""
        shares = self.claims * torch.from_numpy(soft)
        total = float(shares.sum())
        return shares / total if total > 0.0 else torch.zeros_like(shares)

    def delta(self, weights: Tensor) -> Tensor:
        """Return the (D,) average by weights."""
        return average(self.updates, weights, self.factors)

    def joined(
        self, rest: NDArray[np.bool_], group: NDArray[np.bool_], share: float
    ) -> NDArray[np.float64]:
        """Return (K,) factors under which `group`, beside `rest`, holds at least a `share`."""
        claims = np.asarray(self.claims.numpy(), dtype=np.float64)
        inside, outside = float(claims[group].sum()), float(claims[rest].sum())
        lift = share * outside / ((1.0 - share) * inside) if inside > 0.0 else 1.0
        return rest.astype(np.float64) + max(lift, 1.0) * group

    def scores(self, groups: list[NDArray[np.float64]]) -> Scores:
        """Return what the global model plus the average under each (K,) of factors scores."""
        deltas = [self.delta(self.weights(group)) for group in groups]
        models = self.updates.global_vector + torch.stack(deltas)
        return score_models(self.tools, self.updates.layout, models)
