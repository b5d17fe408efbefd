"""Fusing whatever an attacker got, without the checks of an honest server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedguard.encryption.attacks.cohort import SIZE
from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice import multikey
from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.multikey import Aggregate, Ciphertext
from fedguard.encryption.lattice.packing import Values, make_packing
from fedguard.encryption.protocol.agreement import Payload, get
from fedguard.encryption.protocol.server import RoundServer


def sum_of(
    server: RoundServer, replies: Mapping[int, Payload], parties: Iterable[int]
) -> Aggregate:
    """Return the sum of the ciphertexts of any parties."""
    total = Aggregate(server.profile, 1)
    for party in parties:
        data = get(replies[party], "ciphertext", bytes)
        total.add(Ciphertext.from_bytes(server.profile, data))
    return total


def open_sum(server: RoundServer, total: Aggregate, replies: Mapping[int, Payload]) -> Values:
    """Return what shares of any form make of a sum."""
    packing = make_packing("coefficients", server.profile, len(server.members))
    shares = [read_any_share(server, reply) for reply in replies.values()]
    return multikey.fuse(total, shares, packing, SIZE)


def read_any_share(server: RoundServer, reply: Payload) -> Residues:
    """Return a share modulo q_0, whether it came rounded or, from naive clients, exact."""
    profile, data = server.profile, get(reply, "share", bytes)
    try:
        return multikey.read_share(profile, data)
    except ProtocolError:
        ring = profile.data_ring
        return ring.drop_to_first(ring.intt(multikey.read_sum(profile, data)))
