"""Plain CKKS: change the scale that stands beside the sum, so that little flooding is left."""

from __future__ import annotations

import math

import numpy as np

from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.attacks.shared_cohort import SharedCohort, values_of
from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.lattice.packing import Values
from fedguard.encryption.lattice.seal_format import vector_ciphertexts, with_ciphertexts
from fedguard.encryption.protocol.agreement import get
from fedguard.encryption.protocol.guards import Guards

NAME = "changed-scale"
LOST_BITS = 20
"""The scale is divided by two to this."""


def changed_scale(guarded: bool) -> AttackOutcome:
    """Divide the scale: decryption multiplies the sum, and the flooding that is added is not.

    The naive variant decrypts TenSEAL's own bytes, in which the scale stands, and adds the same
    flooding; guarded clients take residues alone and read them by their own template.
    """
    cohort = SharedCohort.make(Guards())
    replies = cohort.encrypt_all()
    opener = cohort.confirm()
    client = cohort.clients[opener]
    request = cohort.server.share_requests(opener)[opener]
    count = vectors.CHAIN.count(get(request, "size", int))
    total = vectors.read_vector(vectors.CHAIN, count, get(request, "sum", bytes))
    secret = get(client.memory["key"], "secret", bytes)
    hostile = _rescaled(secret, total, len(replies))
    if guarded:
        try:
            values_of(client.share({**request, "sum": b"".join(hostile)}))
        except ProtocolError as error:
            return AttackOutcome(NAME, guarded, False, f"refused: {error}")
    released = _naive_opening(secret, hostile, len(replies)) / 2.0**LOST_BITS
    truth = np.sum(list(cohort.updates.values()), axis=0)
    left = float(np.std(released[: truth.size] - truth))
    lost = math.log2(vectors.flooding_std(len(replies)) / left)
    return AttackOutcome(
        NAME, guarded, lost > LOST_BITS / 2, f"{2 * lost:.0f} statistical bits of the flooding lost"
    )


def _rescaled(secret: bytes, total: np.ndarray, clients: int) -> list[bytes]:
    """Return the sum as TenSEAL's bytes with another scale; any client's template will do."""
    import tenseal as ts

    context = vectors.key_pair_of(secret, clients)
    blob = ts.ckks_vector(context, [0.0] * vectors.CHAIN.slots).serialize()
    written = []
    for start in range(0, total.shape[1], 2):
        ciphertext = vector_ciphertexts(blob)[0]
        ciphertext.data = total[:, start : start + 2].swapaxes(0, 1)
        ciphertext.scale /= 2.0**LOST_BITS
        written.append(with_ciphertexts(blob, [ciphertext]))
    return written


def _naive_opening(secret: bytes, blobs: list[bytes], clients: int) -> Values:
    import tenseal as ts

    context = vectors.key_pair_of(secret, clients)
    values = [np.array(ts.ckks_vector_from(context, blob).decrypt()) for blob in blobs]
    exact = np.concatenate(values)
    noise = np.random.default_rng(0).normal(0, vectors.flooding_std(clients), exact.size)
    opened: Values = exact + noise
    return opened
