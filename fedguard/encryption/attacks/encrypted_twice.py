"""Plain CKKS: ask for two ciphertexts in one round and have their difference opened, enlarged."""

from __future__ import annotations

import numpy as np

from fedguard.encryption.attacks.cohort import error_of
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.attacks.shared_cohort import SharedCohort, values_of
from fedguard.encryption.errors import RefusedError
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.protocol.agreement import Payload, get
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.transcript import SumTag

NAME = "encrypted-twice"
TIMES = 500


def encrypted_twice(guarded: bool) -> AttackOutcome:
    """Open ``sum + 500 (m - m')`` for two encryptions m, m' of one client under one tag key.

    Tags are linear and both hold the same offset, so the difference may be added as often as one
    likes. The naive variant answers every message as often as it is asked.
    """
    victim = 1
    guards = Guards() if guarded else Guards(one_answer=False, bound_update=False)
    cohort = SharedCohort.make(guards)
    replies = cohort.encrypt_all()
    first = cohort.updates[victim]
    cohort.updates[victim] = np.zeros_like(first)
    try:
        again = cohort.encrypt(victim)
    except RefusedError as error:
        return AttackOutcome(NAME, guarded, False, f"refused: {error}")
    opener = cohort.confirm()
    request = cohort.server.share_requests(opener)[opener]
    forged = _enlarged(request, replies[victim], again)
    found = values_of(cohort.clients[opener].share(forged))
    honest = np.sum([update for party, update in cohort.updates.items() if party != victim], axis=0)
    gap = error_of(found, honest + (TIMES + 1) * first)
    return AttackOutcome(
        NAME, guarded, gap < 1e-3, f"one client's update {TIMES} times over, error {gap:.1e}"
    )


def _enlarged(request: Payload, first: Payload, second: Payload) -> Payload:
    recipe = vectors.CHAIN
    count = recipe.count(get(request, "size", int))

    def read(payload: Payload, key: str) -> np.ndarray:
        return vectors.read_vector(recipe, count, get(payload, key, bytes))

    total, tags = read(request, "sum"), [get(request, "tag", bytes)]
    difference = vectors.subtract_vectors(
        recipe, read(first, "ciphertext"), read(second, "ciphertext")
    )
    negative = _negative(get(second, "tag", bytes))
    for _ in range(TIMES):
        total = vectors.add_vectors(recipe, total, difference)
        tags += [get(first, "tag", bytes), negative]
    tag = SumTag.add_tags(recipe.ring, tags)
    return {**request, "sum": vectors.write_vector(recipe, total), "tag": tag}


def _negative(tag: bytes) -> bytes:
    primes = vectors.CHAIN.ring.primes
    words = np.frombuffer(tag, dtype="<u8")
    return b"".join(
        (primes[index % len(primes)] - int(word)).to_bytes(8, "little")
        for index, word in enumerate(words)
    )
