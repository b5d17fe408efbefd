"""Ask for the same share again and again, and average the flooding away."""

from __future__ import annotations

import math

import numpy as np

from fedguard.encryption.attacks.cohort import Cohort
from fedguard.encryption.attacks.fusing import open_sum, sum_of
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.errors import RefusedError
from fedguard.encryption.protocol.guards import Guards

NAME = "repeated-queries"
ANSWERS = 36
"""How often the server asks; the noise must fall by six."""


def repeated_queries(guarded: bool) -> AttackOutcome:
    """Average many shares of one sum: r answers cost log2(r) bits of statistical security.

    What is measured is the noise left on the decrypted sum. It succeeds if that falls as the
    square root of the number of answers; more answers remove as much more of it.
    """
    cohort = Cohort.make(Guards() if guarded else Guards(one_answer=False))
    replies = cohort.encrypt_honestly()
    requests = cohort.server.share_requests()
    total = sum_of(cohort.server, replies, replies)
    truth = np.sum(list(cohort.updates.values()), axis=0)
    sums = []
    try:
        for _ in range(ANSWERS):
            sums.append(open_sum(cohort.server, total, cohort.shares(requests)))
    except RefusedError as error:
        return AttackOutcome(NAME, guarded, False, f"refused after {len(sums)} answer: {error}")
    single = float(np.std(sums[0] - truth))
    averaged = float(np.std(np.mean(sums, axis=0) - truth))
    gain = single / averaged
    return AttackOutcome(
        NAME,
        guarded,
        gain > 0.7 * math.sqrt(ANSWERS),
        f"flooding reduced {gain:.1f} times by {ANSWERS} answers: "
        f"{2 * math.log2(gain):.1f} statistical bits lost",
    )
