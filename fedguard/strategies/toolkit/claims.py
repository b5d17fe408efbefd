"""How far claimed numbers of examples are believed."""

from __future__ import annotations

from torch import Tensor

from fedguard.strategies.toolkit.averaging import median
from fedguard.updates import ClientUpdates

CLAIM_CAP = 3.0
"""Claimed numbers of examples count up to this multiple of their median ..."""

WIDE_CLAIM_CAP = 10.0
"""... and up to this one where that lowers the server's loss."""


def claimed_shares(updates: ClientUpdates, cap: float) -> Tensor:
    """Return the (K,) claimed numbers of examples, at most `cap` times their median."""
    claims = updates.num_examples
    return claims.clamp(max=cap * float(median(claims)))


def claimed_reach(updates: ClientUpdates) -> Tensor:
    """Return how much longer than usual an update may be for what it claims: (K,), from 1.

    Twice the examples are twice the steps; steps that point everywhere add up to the square root.
    """
    claims = updates.num_examples
    return (claims / float(median(claims))).clamp(1.0, WIDE_CLAIM_CAP).sqrt()
