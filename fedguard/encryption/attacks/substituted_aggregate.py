"""Ask for shares on one victim's ciphertext and call it the sum."""

from __future__ import annotations

from fedguard.encryption.attacks.cohort import Cohort, error_of
from fedguard.encryption.attacks.fusing import open_sum, sum_of
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.errors import RefusedError
from fedguard.encryption.protocol.guards import Guards

NAME = "substituted-aggregate"


def substituted_aggregate(guarded: bool) -> AttackOutcome:
    """Open one update by sending its c1 in place of C1.

    The shares of all clients then decrypt the victim's ciphertext alone. Guarded clients check
    the tag: neither the sum's nor the victim's own fits.
    """
    victim = 1
    cohort = Cohort.make(Guards() if guarded else Guards.none())
    replies = cohort.encrypt_honestly()
    alone = sum_of(cohort.server, replies, [victim])
    refusals = []
    for tag in ({}, {"tag": replies[victim]["tag"]}):
        forged = {
            party: {**request, "sum": alone.sum_bytes(), **tag}
            for party, request in cohort.server.share_requests().items()
        }
        try:
            shares = cohort.shares(forged)
        except RefusedError as error:
            refusals.append(f"refused: {error}")
            continue
        gap = error_of(open_sum(cohort.server, alone, shares), cohort.updates[victim])
        return AttackOutcome(
            NAME, guarded, gap < 1e-3, f"one client's update opened, error {gap:.1e}"
        )
    return AttackOutcome(NAME, guarded, False, refusals[-1])
