"""Bytes on the wire: exact bit packing, a header that names the parameters, strict reading."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.profiles import Profile

_VERSION = 1
_HEADER = struct.Struct("<4sBBI16s")
_MAGIC = b"FGHE"
HEADER_BYTES = _HEADER.size
_MAX_COUNT = 1 << 20
_WORDS: tuple[tuple[int, str], ...] = ((32, "<u4"), (16, "<u2"), (8, "u1"))


def pack_bits(values: Residues, bits: int) -> bytes:
    """Return unsigned integers as planes of 32, 16, 8, 4, 2 and 1 bits: `bits` bits each.

    Parameters
    ----------
    values : ndarray
        (n,) below 2^`bits`; n must be a multiple of 8.
    bits : int
        1 to 63.
    """
    planes = []
    rest = values
    for width, dtype in _WORDS:
        if bits & width:
            planes.append(rest.astype(dtype).tobytes())
            rest = rest >> np.uint64(width)
    for width in (4, 2, 1):
        if bits & width:
            planes.append(_pack_small(rest.astype(np.uint8), width))
            rest = rest >> np.uint64(width)
    return b"".join(planes)


def _pack_small(values: np.ndarray, width: int) -> bytes:
    grouped = (values & np.uint8((1 << width) - 1)).reshape(-1, 8 // width)
    packed = grouped[:, 0].copy()
    for position in range(1, 8 // width):
        packed |= grouped[:, position] << np.uint8(position * width)
    return packed.tobytes()


def unpack_bits(data: bytes | memoryview, bits: int, count: int) -> Residues:
    """Return the `count` integers that `pack_bits` wrote.

    Raises
    ------
    ProtocolError
        If the number of bytes is wrong.
    """
    if len(data) * 8 != count * bits or count % 8:
        raise ProtocolError(f"{len(data)} bytes cannot hold {count} values of {bits} bits")
    values = np.zeros(count, dtype=np.uint64)
    start, shift = 0, 0
    for width, dtype in _WORDS:
        if bits & width:
            end = start + count * width // 8
            plane = np.frombuffer(data[start:end], dtype=dtype).astype(np.uint64)
            values |= plane << np.uint64(shift)
            start, shift = end, shift + width
    for width in (4, 2, 1):
        if bits & width:
            end = start + count * width // 8
            plane = _unpack_small(np.frombuffer(data[start:end], dtype=np.uint8), width)
            values |= plane.astype(np.uint64) << np.uint64(shift)
            start, shift = end, shift + width
    return values


def _unpack_small(packed: np.ndarray, width: int) -> np.ndarray:
    per_byte = 8 // width
    out = np.empty((packed.size, per_byte), dtype=np.uint8)
    for position in range(per_byte):
        out[:, position] = (packed >> np.uint8(position * width)) & np.uint8((1 << width) - 1)
    return out.reshape(-1)


@dataclass(frozen=True)
class _Kind:
    """One kind of object: its tag and which primes of the key ring its limbs belong to."""

    tag: int
    name: str


KEY = _Kind(1, "public key share")
CIPHERTEXT = _Kind(2, "ciphertext")
SUM = _Kind(3, "aggregate")
SHARE = _Kind(4, "decryption share")
SECRET_SHARE = _Kind(5, "key share")


def write(profile: Profile, kind: _Kind, limbs: Sequence[tuple[int, Residues]]) -> bytes:
    """Serialise polynomials.

    Parameters
    ----------
    profile : Profile
        Its digest goes into the header.
    kind : _Kind
        What the object is.
    limbs : sequence of (int, ndarray)
        Prime index in the key ring, and (count, N) residues of that prime.
    """
    count = limbs[0][1].shape[0]
    parts = [_HEADER.pack(_MAGIC, _VERSION, kind.tag, count, profile.digest)]
    parts += [pack_bits(residues.reshape(-1), profile.key_bits[index]) for index, residues in limbs]
    return b"".join(parts)


def bytes_of(profile: Profile, indices: Sequence[int], count: int) -> int:
    """Return how many bytes `count` polynomials of these primes take."""
    bits = sum(profile.key_bits[index] for index in indices)
    return HEADER_BYTES + count * profile.ring_degree * bits // 8


def read(profile: Profile, kind: _Kind, indices: Sequence[int], data: bytes) -> list[Residues]:
    """Return the (count, N) residues of each prime index, checked.

    Raises
    ------
    ProtocolError
        If the bytes are of another version, kind, parameter set or length, or a residue is not
        below its prime.
    """
    if len(data) < _HEADER.size:
        raise ProtocolError(f"{kind.name}: {len(data)} bytes are too few")
    magic, version, tag, count, digest = _HEADER.unpack_from(data)
    if (magic, version, tag) != (_MAGIC, _VERSION, kind.tag):
        raise ProtocolError(f"{kind.name}: not one of this version")
    if digest != profile.digest:
        raise ProtocolError(f"{kind.name}: made with other parameters than profile {profile.name}")
    degree = profile.ring_degree
    sizes = [count * degree * profile.key_bits[index] // 8 for index in indices]
    if not 1 <= count <= _MAX_COUNT or len(data) != _HEADER.size + sum(sizes):
        raise ProtocolError(f"{kind.name}: {len(data)} bytes for {count} polynomials")
    view = memoryview(data)[_HEADER.size :]
    found = []
    for index, size in zip(indices, sizes, strict=True):
        residues = unpack_bits(view[:size], profile.key_bits[index], count * degree)
        if int(residues.max()) >= profile.key_ring.primes[index]:
            raise ProtocolError(f"{kind.name}: a residue is not below its prime")
        found.append(residues.reshape(count, degree))
        view = view[size:]
    return found
