"""What a defence of several steps knows of a round while it decides on its clients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedguard.updates import ClientUpdates


@dataclass
class JudgedRound:
    """What is known of the round's clients while the views are taken; every array is (K,).

    Attributes
    ----------
    updates : ClientUpdates
        The round.
    norms : Tensor
        Norms of the updates.
    keep : ndarray
        Who is still in.
    reasons : dict of int to str
        Node id to why a client is out.
    scores : dict of str to Tensor
        What was measured.
    reach : Tensor
        What a client's norm is clipped to, in units of the median norm.
    """

    updates: ClientUpdates
    norms: Tensor
    keep: np.ndarray
    reasons: dict[int, str]
    scores: dict[str, Tensor]
    reach: Tensor

    def reject(self, row: int, reason: str) -> None:
        """Take a client out, for the first reason that is found."""
        if self.keep[row]:
            self.keep[row] = False
            self.reasons[self.updates.node_ids[row]] = reason
