"""Open the updates of one training under two rounds, the second one without the victim."""

from __future__ import annotations

from fedguard.encryption.attacks.cohort import EXAMPLES, SIZE, Cohort, error_of
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice.packing import Values
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.ledger import Training
from fedguard.encryption.protocol.server import RoundServer

NAME = "two-rounds"


def two_rounds(guarded: bool) -> AttackOutcome:
    """Play two honest-looking rounds, the second without a model and without the victim.

    The naive variant encrypts whatever it trained last for any later round, under keys as fresh as
    they should be; the difference of the two means is the victim's update.
    """
    victim = 1
    cohort = Cohort.make(Guards() if guarded else Guards(bound_update=False))
    training = Training(1, b"a model")
    try:
        whole = _open(cohort, cohort.server, training)
        others = tuple(party for party in cohort.sessions if party != victim)
        terms = Agreement(2, 0, others, "default", "coefficients")
        rest = _open(cohort, RoundServer(terms, SIZE), training)
    except ProtocolError as error:
        return AttackOutcome(NAME, guarded, False, f"refused: {error}")
    gap = error_of(whole - rest, cohort.updates[victim])
    return AttackOutcome(
        NAME, guarded, gap < 1e-3, f"one client's update by subtraction, error {gap:.1e}"
    )


def _open(cohort: Cohort, server: RoundServer, training: Training) -> Values:
    """Return the sum of the updates, by an honest round with this server."""
    sessions = cohort.sessions
    commits = server.commit_requests()
    server.take_commits({p: sessions[p].commit(r, EXAMPLES) for p, r in commits.items()})
    server.take_reveals({p: sessions[p].reveal(r) for p, r in server.reveal_requests().items()})
    server.take_ciphertexts(
        {
            p: sessions[p].encrypt(r, cohort.updates[p], EXAMPLES, training)
            for p, r in server.encrypt_requests().items()
        }
    )
    asked = server.share_requests()
    found = server.take_shares(asked, {p: sessions[p].share(r) for p, r in asked.items()})
    return found.mean * len(found.contributors)
