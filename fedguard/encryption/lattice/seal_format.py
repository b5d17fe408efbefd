"""Microsoft SEAL objects and TenSEAL messages as bytes, read and written without their libraries.

TenSEAL has no setter for polynomial coefficients and no multi-key interface, but what it
serialises is documented by its readers: a protobuf around SEAL objects. A SEAL object is a
16-byte header and a payload that may be zstd-compressed; keys and CKKS ciphertexts hold their
residues in transform order. Formats as written by TenSEAL 0.3.18; any surprise raises
`BackendUnavailableError`. For what TenSEAL wrote in this process: nothing here is on the wire.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from fedguard.encryption.errors import BackendUnavailableError
from fedguard.encryption.lattice.modular import Residues

_SEAL_HEADER = struct.Struct("<HBBBBHQ")
_SEAL_MAGIC = 0xA15E
_PARMS_ID = 32
_SHAPE = struct.Struct("<QQQd")

Field = tuple[int, int, bytes | int]
"""A protobuf field: number, wire type, value."""


def _surprise(what: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"unknown byte format ({what}); fedguard knows that of TenSEAL 0.3.18"
    )


def read_protobuf(data: bytes) -> list[Field]:
    """Return the fields of a protobuf message in order."""
    fields: list[Field] = []
    position = 0
    try:
        while position < len(data):
            key, position = _read_varint(data, position)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, position = _read_varint(data, position)
                fields.append((number, wire, value))
                continue
            size = 8
            if wire == 2:
                size, position = _read_varint(data, position)
            elif wire != 1:
                raise _surprise(f"protobuf wire type {wire}")
            if position + size > len(data):
                raise _surprise("protobuf message cut short")
            fields.append((number, wire, data[position : position + size]))
            position += size
    except IndexError as error:
        raise _surprise("protobuf message cut short") from error
    return fields


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_protobuf(fields: Iterable[Field]) -> bytes:
    """Return the message made of fields."""
    parts = []
    for number, wire, value in fields:
        parts.append(_varint(number << 3 | wire))
        if isinstance(value, int):
            parts.append(_varint(value))
        else:
            parts.extend([_varint(len(value)), value] if wire == 2 else [value])
    return b"".join(parts)


def embedded(fields: Iterable[Field], number: int) -> list[bytes]:
    """Return the length-delimited values of one field number."""
    return [value for found, _, value in fields if found == number and isinstance(value, bytes)]


def _unwrap(data: bytes) -> tuple[bytes, tuple[int, int]]:
    """Return a SEAL object's payload, decompressed, and its version."""
    if len(data) < _SEAL_HEADER.size:
        raise _surprise("SEAL object too short")
    magic, header, major, minor, compression, _, size = _SEAL_HEADER.unpack_from(data)
    if magic != _SEAL_MAGIC or header != _SEAL_HEADER.size or not header <= size <= len(data):
        raise _surprise("SEAL header")
    body = data[header:size]
    try:
        if compression == 1:
            body = zlib.decompress(body)
        elif compression == 2:
            with pa.input_stream(pa.py_buffer(body), compression="zstd") as stream:
                body = stream.read()
        elif compression != 0:
            raise _surprise(f"SEAL compression {compression}")
    except (OSError, zlib.error) as error:
        raise _surprise(f"SEAL compression: {error}") from error
    return body, (major, minor)


def _wrap(payload: bytes, version: tuple[int, int]) -> bytes:
    size = _SEAL_HEADER.size + len(payload)
    return _SEAL_HEADER.pack(_SEAL_MAGIC, 16, *version, 0, 0, size) + payload


@dataclass
class SealCiphertext:
    """A SEAL ciphertext or public key (which SEAL stores as a ciphertext of zero).

    Attributes
    ----------
    parms_id : bytes
        SEAL's hash of the encryption parameters.
    is_transform : int
        1 where the polynomials are transforms.
    scale : float
        CKKS scale.
    extra : bytes
        What stands between scale and data (the BGV correction factor).
    version : tuple of int
        SEAL version of the outer and inner header.
    data : ndarray
        (polynomials, limbs, N) residues.
    """

    parms_id: bytes
    is_transform: int
    scale: float
    extra: bytes
    version: tuple[int, int]
    data: Residues

    @classmethod
    def load(cls, blob: bytes) -> SealCiphertext:
        """Read a SEAL object.

        Raises
        ------
        BackendUnavailableError
            If it is not laid out as expected, or holds a seed in place of a polynomial.
        """
        payload, version = _unwrap(blob)
        fixed = _PARMS_ID + 1
        if len(payload) < fixed + _SHAPE.size + 8:
            raise _surprise("SEAL ciphertext too short")
        size, degree, limbs, scale = _SHAPE.unpack_from(payload, fixed)
        start = fixed + _SHAPE.size
        inner = start + 8
        values, _ = _unwrap(payload[inner:])
        count = int.from_bytes(values[:8], "little")
        if count != size * degree * limbs or len(values) != 8 + 8 * count:
            raise _surprise("SEAL ciphertext data")
        data = np.frombuffer(values, dtype="<u8", offset=8).reshape(size, limbs, degree)
        return cls(
            payload[:_PARMS_ID], payload[_PARMS_ID], scale, payload[start:inner], version, data
        )

    def dump(self) -> bytes:
        """Return the object's bytes, uncompressed."""
        size, limbs, degree = self.data.shape
        values = np.ascontiguousarray(self.data, dtype="<u8").tobytes()
        inner = _wrap((self.data.size).to_bytes(8, "little") + values, self.version)
        shape = _SHAPE.pack(size, degree, limbs, self.scale)
        return _wrap(
            self.parms_id + bytes([self.is_transform]) + shape + self.extra + inner, self.version
        )


def read_secret_key(blob: bytes, degree: int) -> Residues:
    """Return the (limbs, N) residues of a SEAL secret key, in transform order."""
    payload, _ = _unwrap(blob)
    values, _ = _unwrap(payload[_PARMS_ID + 16 :])
    count = int.from_bytes(values[:8], "little")
    if len(values) != 8 + 8 * count or count % degree:
        raise _surprise("SEAL secret key")
    return np.frombuffer(values, dtype="<u8", offset=8).reshape(-1, degree)


@dataclass
class TensealContext:
    """A TenSEAL context as its protobuf fields.

    Attributes
    ----------
    fields : list
        All fields: 1 parameters, 2 public part (1 public key, 3 scale), 3 secret part, ...
    """

    fields: list[Field]

    @classmethod
    def load(cls, blob: bytes) -> TensealContext:
        """Read a serialised context."""
        return cls(read_protobuf(blob))

    @property
    def public_key(self) -> SealCiphertext:
        """The public key."""
        public = embedded(self.fields, 2)
        keys = embedded(read_protobuf(public[0]), 1) if public else []
        if not keys:
            raise _surprise("TenSEAL context without a public key")
        return SealCiphertext.load(keys[0])

    def secret_key(self, degree: int) -> Residues:
        """Return the secret key's residues (limbs, N)."""
        secret = embedded(self.fields, 3)
        keys = embedded(read_protobuf(secret[0]), 1) if secret else []
        if not keys:
            raise _surprise("TenSEAL context without a secret key")
        return read_secret_key(keys[0], degree)

    def with_public_key(self, key: SealCiphertext, scale: float) -> bytes:
        """Return the bytes of a context that holds this public key and no secret one."""
        fields = [field for field in self.fields if field[0] != 3]
        return write_protobuf(_with_public(fields, key, scale))

    def with_keys(self, key: SealCiphertext, secret: Residues, scale: float) -> bytes:
        """Return the bytes of a context that holds this key pair.

        Parameters
        ----------
        key : SealCiphertext
            Public key.
        secret : ndarray
            (limbs, N) transform of the secret key, all primes of the key included.
        scale : float
            CKKS scale of what is encrypted.
        """
        values = np.ascontiguousarray(secret, dtype="<u8")
        inner = _wrap(values.size.to_bytes(8, "little") + values.tobytes(), key.version)
        shape = struct.pack("<Qd", values.size, 1.0)
        written = _wrap(key.parms_id + shape + inner, key.version)
        private = write_protobuf([(1, 2, written)])
        fields = [field for field in self.fields if field[0] != 3]
        return write_protobuf([*_with_public(fields, key, scale), (3, 2, private)])


def _with_public(fields: list[Field], key: SealCiphertext, scale: float) -> list[Field]:
    public = write_protobuf([(1, 2, key.dump()), (2, 0, 0), (3, 1, struct.pack("<d", scale))])
    return [(number, wire, public if number == 2 else value) for number, wire, value in fields]


def vector_ciphertexts(blob: bytes) -> list[SealCiphertext]:
    """Return the ciphertexts of a serialised ``CKKSVector``."""
    return [SealCiphertext.load(value) for value in embedded(read_protobuf(blob), 2)]


def with_ciphertexts(blob: bytes, ciphertexts: Iterable[SealCiphertext]) -> bytes:
    """Return the serialised vector with its ciphertexts replaced, one by one."""
    replacement = iter(ciphertexts)
    return write_protobuf(
        (number, wire, next(replacement).dump() if number == 2 else value)
        for number, wire, value in read_protobuf(blob)
    )
