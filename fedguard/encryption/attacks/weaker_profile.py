"""Ask for a parameter set whose shares are flooded less."""

from __future__ import annotations

from fedguard.encryption.attacks.cohort import EXAMPLES, Cohort
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.errors import RefusedError
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.guards import Guards

NAME = "weaker-profile"


def weaker_profile(guarded: bool) -> AttackOutcome:
    """Send the terms of profile ``light`` to clients that were promised ``default``.

    The naive variant takes any profile that it knows.
    """
    guards = Guards() if guarded else Guards(smallest_profile="light")
    cohort = Cohort.make(guards)
    terms = Agreement(1, 0, tuple(cohort.sessions), "light", "coefficients")
    try:
        for session in cohort.sessions.values():
            session.commit(terms.to_payload(), EXAMPLES)
    except RefusedError as error:
        return AttackOutcome(NAME, guarded, False, f"refused: {error}")
    bits, promised = terms.profile.strength[0], cohort.server.profile.strength[0]
    return AttackOutcome(
        NAME, guarded, bits < promised, f"{bits:.0f} statistical bits in place of {promised:.0f}"
    )
