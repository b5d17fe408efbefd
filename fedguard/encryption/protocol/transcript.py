"""What clients check about a round: commitments, one common view, and the sum's tag.

The tag is the linear transcript check: a linearly homomorphic MAC under a key that the clients
share and the server does not know. Client i sends ``t_i = <r, c1_i> + f_i``; the server adds tags
as it adds ciphertexts; a client answers only if ``<r, C1> + sum_i f_i`` is the tag it was given.
A server that puts one client's c1 in place of the sum, leaves a client out or adds one twice
would have to guess r. It holds against the server alone: whoever knows r, any client of the round,
can forge tags for a colluding server.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice.modular import PrimeField, Residues
from fedguard.encryption.lattice.ring import Ring

_REPEATS = 2
"""Independent keys r per limb; a forgery passes with probability at most q_0^-2."""
_BLOCK = 64


def digest(label: str, *parts: bytes) -> bytes:
    """Return SHA-256 of a label and length-prefixed parts."""
    state = hashlib.sha256(f"fedguard/1/{label}".encode())
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def commitment(context: bytes, party: int, key: bytes, nonce: bytes) -> bytes:
    """Return the commitment of a client to its public key share.

    Parameters
    ----------
    context : bytes
        Digest of the round's agreement.
    party : int
        Who commits.
    key : bytes
        The serialised share.
    nonce : bytes
        32 secret bytes, revealed with the share.
    """
    return digest("key", context, party.to_bytes(8, "little"), key, nonce)


def round_secret(
    view: bytes, members: tuple[int, ...], model: bytes, seeds: Iterable[bytes]
) -> bytes:
    """Return the clients' common secret of a round, from one seed of each and their view of it.

    Two clients that were shown different cohorts, keys, commitments or models derive different
    secrets, so the tags of a server that splits the view do not add up.

    Parameters
    ----------
    view : bytes
        Digest of all commitments; see `Agreement.view`.
    members : tuple of int
        Whose keys the joint key holds.
    model : bytes
        Digest of the model that the updates were trained from.
    seeds : iterable of bytes
        What each member sealed for the others.
    """
    bound = digest("members", view, repr(members).encode(), model)
    return hmac.digest(digest("seeds", *seeds), bound, "sha256")


class SumTag:
    """The linear transcript check of one round.

    Parameters
    ----------
    ring : Ring
        Ring of the ciphertexts.
    secret : bytes
        The clients' `round_secret`.
    """

    def __init__(self, ring: Ring, secret: bytes) -> None:
        self.ring = ring
        self.secret = secret

    def tag(self, c1: Residues, party: int) -> bytes:
        """Return the tag of one client's c1 (data limbs, count, N)."""
        return self._pack(self._add(self._inner(c1), self._offset(party)))

    def holds(self, total: Residues, tag: bytes, contributors: Iterable[int]) -> bool:
        """Return whether `total` is the sum of what exactly these clients tagged, each once."""
        value = self._inner(total)
        for party in contributors:
            value = self._add(value, self._offset(party))
        return hmac.compare_digest(self._pack(value), tag)

    def _fields(self) -> list[PrimeField]:
        return [field for _ in range(_REPEATS) for field in self.ring.fields]

    def _inner(self, c1: Residues) -> list[int]:
        limbs = len(c1)
        return [
            self._inner_product(index, field, c1[index % limbs])
            for index, field in enumerate(self._fields())
        ]

    def _inner_product(self, index: int, field: PrimeField, polynomials: Residues) -> int:
        stream = _Stream(self.secret, b"r" + bytes([index]))
        total = 0
        for start in range(0, len(polynomials), _BLOCK):
            block = polynomials[start : start + _BLOCK]
            total += field.total(field.mul(block, stream.residues(block.shape, field)))
        return total % field.prime

    def _offset(self, party: int) -> list[int]:
        stream = _Stream(self.secret, b"f" + party.to_bytes(8, "little"))
        return [int(stream.residues((8,), field)[0]) for field in self._fields()]

    def _add(self, a: list[int], b: list[int]) -> list[int]:
        return [(x + y) % f.prime for x, y, f in zip(a, b, self._fields(), strict=True)]

    def _pack(self, values: list[int]) -> bytes:
        return b"".join(value.to_bytes(8, "little") for value in values)

    @staticmethod
    def add_tags(ring: Ring, tags: Iterable[bytes]) -> bytes:
        """Return the sum of tags; needs no secret, so the server does it.

        Raises
        ------
        ProtocolError
            If a tag has the wrong length.
        """
        fields = [field for _ in range(_REPEATS) for field in ring.fields]
        totals = [0] * len(fields)
        for tag in tags:
            if len(tag) != 8 * len(fields):
                raise ProtocolError(f"a tag has {len(tag)} bytes, expected {8 * len(fields)}")
            for index, field in enumerate(fields):
                value = int.from_bytes(tag[8 * index : 8 * index + 8], "little")
                totals[index] = (totals[index] + value) % field.prime
        return b"".join(total.to_bytes(8, "little") for total in totals)


class _Stream:
    """Uniform residues expanded from a secret with AES-256 in counter mode."""

    def __init__(self, secret: bytes, label: bytes) -> None:
        key = hmac.digest(secret, label, "sha256")
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def residues(self, shape: tuple[int, ...], field: PrimeField) -> Residues:
        """Return the next residues of `field`, by rejection."""
        size = int(np.prod(shape))
        mask = np.uint64((1 << field.bits) - 1)
        found = np.empty(0, dtype=np.uint64)
        while found.size < size:
            stream = self._cipher.update(bytes(8 * (size - found.size + size // 64 + 8)))
            words = np.frombuffer(stream, dtype="<u8") & mask
            found = np.concatenate([found, words[words < np.uint64(field.prime)]])
        return found[:size].reshape(shape)
