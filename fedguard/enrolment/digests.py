"""The digest of all that a reply holds, which a ticket signs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from flwr.app import Array, RecordDict


def content_digest(content: RecordDict) -> bytes:
    """Return the SHA-256 of all that a reply holds: arrays, metrics, configuration.

    The number of examples and fresh public keys of a protocol on top are among it.
    """
    found = hashlib.sha256()
    for name, record in sorted(content.items()):
        _feed(found, name.encode(), type(record).__name__.encode())
        entries: Mapping[str, object] = dict(record)
        for key, value in sorted(entries.items()):
            _feed(found, key.encode(), *_as_bytes(value))
    return found.digest()


def _feed(found: hashlib._Hash, *parts: bytes) -> None:
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)


def _as_bytes(value: object) -> tuple[bytes, ...]:
    """Return an entry of a record as bytes; another type or value gives others."""
    if isinstance(value, Array):
        kind = (str(value.dtype).encode(), repr(tuple(value.shape)).encode(), value.stype.encode())
        return (b"array", *kind, value.data)
    if isinstance(value, bytes):
        return (b"bytes", value)
    if isinstance(value, list):
        inner = [part for each in value for part in _as_bytes(each)]
        return (b"list", len(value).to_bytes(8, "big"), *inner)
    return (type(value).__name__.encode(), repr(value).encode())
