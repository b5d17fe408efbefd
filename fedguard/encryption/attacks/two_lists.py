"""Plain CKKS: have one client open the sum of all, and another one the sum without the victim."""

from __future__ import annotations

from fedguard.encryption.attacks.cohort import error_of
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.attacks.shared_cohort import SharedCohort, values_of
from fedguard.encryption.errors import RefusedError
from fedguard.encryption.protocol.guards import Guards

NAME = "two-lists"


def two_lists(guarded: bool) -> AttackOutcome:
    """Show two openers two well-formed sums of one round.

    The naive variant opens what is asked for; guarded clients open the sum that most of them have
    signed, and each signs one.
    """
    victim, second = 1, 4
    cohort = SharedCohort.make(Guards() if guarded else Guards(one_answer=False))
    cohort.encrypt_all()
    opener = cohort.confirm()
    whole = values_of(cohort.clients[opener].share(cohort.server.share_requests(opener)[opener]))
    signed = cohort.server.share_requests(second)[second]
    smaller = cohort.server.check_requests(victim)
    request = {**signed, **next(iter(smaller.values()))}
    try:
        rest = values_of(cohort.clients[second].share(request))
    except RefusedError as error:
        return AttackOutcome(NAME, guarded, False, f"refused: {error}")
    gap = error_of(whole - rest, cohort.updates[victim])
    return AttackOutcome(
        NAME, guarded, gap < 1e-3, f"one client's update by subtraction, error {gap:.1e}"
    )
