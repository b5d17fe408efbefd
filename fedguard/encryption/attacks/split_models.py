"""Send the victim a model of its own, and everybody else one that they learn nothing from."""

from __future__ import annotations

import numpy as np

from fedguard.encryption.attacks.cohort import EXAMPLES, Cohort, error_of
from fedguard.encryption.attacks.fusing import open_sum, sum_of
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.errors import RefusedError
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.ledger import Training

NAME = "split-models"


def split_models(guarded: bool) -> AttackOutcome:
    """Make every update but the victim's vanish, and open the sum.

    Pasquini, Francati and Ateniese, "Eluding Secure Aggregation in Federated Learning via Model
    Inconsistency", CCS 2022: a model with dead units has no gradient. The naive variant does not
    check tags; guarded clients that trained from different models derive different keys for them.
    """
    victim = 1
    cohort = Cohort.make(Guards() if guarded else Guards(transcript=False))
    cohort.exchange_keys()
    replies = {}
    for party, request in cohort.server.encrypt_requests().items():
        update = cohort.updates[party] if party == victim else np.zeros_like(cohort.updates[party])
        model = b"a model" if party == victim else b"a model with dead units"
        session = cohort.sessions[party]
        replies[party] = session.encrypt(request, update, EXAMPLES, Training(1, model))
    cohort.server.take_ciphertexts(replies)
    try:
        shares = cohort.shares(cohort.server.share_requests())
    except RefusedError as error:
        return AttackOutcome(NAME, guarded, False, f"refused: {error}")
    found = open_sum(cohort.server, sum_of(cohort.server, replies, replies), shares)
    gap = error_of(found, cohort.updates[victim])
    return AttackOutcome(NAME, guarded, gap < 1e-3, f"one client's update opened, error {gap:.1e}")
