"""Have two sums decrypted that differ by one victim."""

from __future__ import annotations

from fedguard.encryption.attacks.cohort import Cohort, error_of
from fedguard.encryption.attacks.fusing import open_sum, sum_of
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.errors import RefusedError
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.transcript import SumTag

NAME = "differencing"


def differencing(guarded: bool) -> AttackOutcome:
    """Open the sum, claim that the victim vanished, open the sum of the others, subtract.

    The second request is well-formed: contributors, tag and sum fit each other. Guarded clients
    answer for one sum per key, whatever it is.
    """
    victim = 1
    cohort = Cohort.make(Guards() if guarded else Guards.none())
    server = cohort.server
    replies = cohort.encrypt_honestly()
    others = [party for party in replies if party != victim]
    without = sum_of(server, replies, others)
    first = server.share_requests()
    tags = [tag for party in others if isinstance(tag := replies[party]["tag"], bytes)]
    second = {
        party: {
            **request,
            "sum": without.sum_bytes(),
            "contributors": list(others),
            "tag": SumTag.add_tags(server.profile.data_ring, tags),
        }
        for party, request in first.items()
    }
    whole = open_sum(server, sum_of(server, replies, replies), cohort.shares(first))
    try:
        rest = open_sum(server, without, cohort.shares(second))
    except RefusedError as error:
        return AttackOutcome(NAME, guarded, False, f"refused: {error}")
    gap = error_of(whole - rest, cohort.updates[victim])
    return AttackOutcome(
        NAME, guarded, gap < 1e-3, f"one client's update by subtraction, error {gap:.1e}"
    )
