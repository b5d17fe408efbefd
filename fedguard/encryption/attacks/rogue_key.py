"""Make the joint key a key of the attacker's own."""

from __future__ import annotations

import numpy as np

from fedguard.encryption.attacks.cohort import SIZE, Cohort, error_of
from fedguard.encryption.attacks.fusing import sum_of
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.errors import RefusedError
from fedguard.encryption.lattice import multikey
from fedguard.encryption.lattice.multikey import SecretKey
from fedguard.encryption.lattice.packing import make_packing
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.agreement import get_bytes
from fedguard.encryption.protocol.guards import Guards

NAME = "rogue-joint-key"


def rogue_key(guarded: bool) -> AttackOutcome:
    """Replace the last key share by ``b' - sum of the others``, so that the joint key is b'.

    Every ciphertext then opens with the attacker's secret alone, without a single share. Naive
    clients take the sum of keys from the server; guarded ones add up the shares themselves and
    check each against a commitment made before any share was known.
    """
    cohort = Cohort.make(Guards() if guarded else Guards.none())
    server, profile = cohort.server, cohort.server.profile
    cohort.exchange_keys()
    requests = server.encrypt_requests()
    source, ring = SystemRandom(), profile.key_ring
    secret = SecretKey.generate(profile, source)
    a = multikey.common_polynomial(profile, server.agreement.context)
    mine = secret.public_share(profile, a, source)
    keys = get_bytes(next(iter(requests.values())), "keys", len(server.members))
    known = multikey.joint_key(profile, a, [multikey.read_key(profile, k) for k in keys[:-1]]).b
    rogue = multikey.write_key(profile, ring.sub(mine, known))
    forged = {
        party: {
            **request,
            "keys": [*keys[:-1], rogue],
            "joint_key": multikey.write_key(profile, mine),
        }
        for party, request in requests.items()
    }
    try:
        replies = cohort.encrypt(forged)
    except RefusedError as error:
        return AttackOutcome(NAME, guarded, False, f"refused: {error}")
    packing = make_packing("coefficients", profile, len(server.members))
    errors = []
    for party in replies:
        alone = sum_of(server, replies, [party])
        share = multikey.exact_share(profile, alone.c1, secret.transform(profile))
        rounded = profile.data_ring.drop_to_first(profile.data_ring.intt(share))
        found = multikey.fuse(alone, [rounded], packing, SIZE)
        errors.append(error_of(found, cohort.updates[party]))
    worst = float(np.max(errors))
    return AttackOutcome(
        NAME, guarded, worst < 1e-3, f"all {len(errors)} updates opened, error {worst:.1e}"
    )
