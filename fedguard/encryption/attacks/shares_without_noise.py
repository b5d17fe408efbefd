"""Divide a decryption share by the sum it was made for."""

from __future__ import annotations

import numpy as np

from fedguard.encryption.attacks.cohort import Cohort
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.lattice import multikey
from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.profiles import Profile
from fedguard.encryption.protocol.agreement import get
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.state import RoundState

NAME = "shares-without-noise"


def shares_without_noise(guarded: bool) -> AttackOutcome:
    """Recover a client's secret key from its share: ``s = D / C1``, slot by slot.

    Guarded shares are flooded and rounded; the attacker lifts them back to modulus Q as well as
    it can and divides.
    """
    victim = 1
    cohort = Cohort.make(Guards() if guarded else Guards.none())
    cohort.encrypt_honestly()
    session, profile = cohort.sessions[victim], cohort.server.profile
    truth = RoundState.from_payload(session.memory["1.0"]).secret.coefficients
    request = cohort.server.share_requests()[victim]
    total = multikey.read_sum(profile, get(request, "sum", bytes))
    data = get(session.share(request), "share", bytes)
    field, sums = profile.data_ring.fields[0], total[0]
    share = _lifted(profile, data) if guarded else multikey.read_sum(profile, data)[0]
    slots = field.mul(share, field.inverse(sums))
    found = field.centred(field.intt(slots))[0]
    match = float(np.mean(found == truth))
    return AttackOutcome(
        NAME, guarded, match > 0.99, f"{match:.1%} of the secret key's coefficients recovered"
    )


def _lifted(profile: Profile, data: bytes) -> Residues:
    """Return the transforms modulo q_0 of D Q / q_0, for a share D that was rounded to q_0."""
    ring, field = profile.data_ring, profile.data_ring.fields[0]
    rounded = multikey.read_share(profile, data)
    return field.ntt(field.mul_scalar(rounded, ring.modulus // profile.message_modulus))
