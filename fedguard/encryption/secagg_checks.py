"""What the server of SecAgg+ checks before it uses or passes on what a client sent.

Flower's mod says what a reply holds; everything is compared with that, lengths before contents. A
vector must be NumPy's own bytes of exactly the shape that is due, so no header decides how much
memory is taken.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import numpy as np
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    public_key_to_bytes,
)

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.protocol.agreement import get, get_bytes, get_ints

Reply = Mapping[str, object]
Shares = Mapping[int, Mapping[int, bytes]]
"""Whose secret to who holds a share of it to the share."""

_MOST_KEY_BYTES = 1024
_MOST_BOX_BYTES = 4096
_SEED_BYTES = 32
_PEM_BYTES = 306
"""Bytes of the private key that Flower's mod shares: P-384, PKCS8, PEM."""


def read_keys(reply: Reply) -> list[bytes]:
    """Return a client's two public keys: for masks and for sealed shares."""
    keys = [get(reply, name, bytes) for name in (Key.PUBLIC_KEY_1, Key.PUBLIC_KEY_2)]
    for key in keys:
        _check_public_key(key)
    if keys[0] == keys[1]:
        raise ProtocolError("its two public keys are the same")
    return keys


def _check_public_key(data: bytes) -> None:
    if len(data) > _MOST_KEY_BYTES:
        raise ProtocolError("a public key is too long")
    try:
        key = bytes_to_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ProtocolError(f"a public key cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != ec.SECP384R1.name:
        raise ProtocolError("a public key is not of the curve P-384")
    if public_key_to_bytes(key) != data:
        raise ProtocolError("a public key is not written as Flower writes it")


def repeated_keys(keys: Mapping[int, list[bytes]]) -> set[int]:
    """Return the clients that sent a key which another one sent as well."""
    senders: dict[bytes, list[int]] = {}
    for node, pair in keys.items():
        for key in pair:
            senders.setdefault(key, []).append(node)
    return {node for nodes in senders.values() if len(nodes) > 1 for node in nodes}


def read_boxes(reply: Reply, targets: Iterable[int]) -> dict[int, bytes]:
    """Return the sealed shares for exactly these clients."""
    found = get_ints(reply, Key.DESTINATION_LIST)
    boxes = get_bytes(reply, Key.CIPHERTEXT_LIST, len(found))
    if sorted(found) != sorted(targets):
        raise ProtocolError("its shares are not addressed to each of its neighbours once")
    if any(len(box) > _MOST_BOX_BYTES for box in boxes):
        raise ProtocolError("a sealed share is too long")
    return dict(zip(found, boxes, strict=True))


def read_vectors(reply: Reply, size: int, modulus: int) -> list[np.ndarray]:
    """Return the masked weight (1,) and the masked update (size,), int64 below the modulus."""
    shapes = ((1,), (size,))
    vectors = []
    for blob, shape in zip(get_bytes(reply, Key.MASKED_PARAMETERS, 2), shapes, strict=True):
        header = _npy_header(shape)
        if blob[: len(header)] != header or len(blob) != len(header) + 8 * shape[0]:
            raise ProtocolError(f"a masked vector is not an int64 array of shape {shape}")
        vector = np.frombuffer(blob, dtype="<i8", offset=len(header))
        if vector.min() < 0 or vector.max() >= modulus:
            raise ProtocolError("a masked value is out of range")
        vectors.append(vector.astype(np.int64))
    return vectors


@lru_cache(maxsize=8)
def _npy_header(shape: tuple[int, ...]) -> bytes:
    written = io.BytesIO()
    np.save(written, np.zeros(shape, dtype=np.int64), allow_pickle=False)
    return written.getvalue()[: -8 * shape[0]]


def read_shares(reply: Reply, active: list[int], dead: list[int], most: int) -> dict[int, bytes]:
    """Return a client's shares of exactly these secrets.

    Parameters
    ----------
    reply : mapping
        Whose secrets, and the shares, in the same order.
    active, dead : list of int
        Clients whose mask seed, and whose private key, is asked for.
    most : int
        Number of shares per secret.
    """
    nodes = get_ints(reply, Key.NODE_ID_LIST)
    shares = get_bytes(reply, Key.SHARE_LIST, len(nodes))
    if list(nodes) != [*active, *dead]:
        raise ProtocolError("its shares are not those that were asked for")
    for node, share in zip(nodes, shares, strict=True):
        secret = _PEM_BYTES if node in dead else _SEED_BYTES
        if len(share) != 4 + 16 * (secret // 16 + 1):
            raise ProtocolError(f"its share of the secret of client {node} has the wrong length")
        if not 1 <= int.from_bytes(share[:4], "little") <= most:
            raise ProtocolError(f"its share of the secret of client {node} has no valid index")
    return dict(zip(nodes, shares, strict=True))


def recover(
    shares: Shares, threshold: int, fits: Callable[[int, bytes], bool]
) -> tuple[dict[int, bytes], set[int]]:
    """Return the shared secrets, and whose shares do not lie on the others' polynomials.

    More than `threshold` shares say more than a secret: all of them give the same one as any few.
    One false share does not get past this, since some of the few that are tried are without it; who
    sent it is found by leaving each holder out in turn.

    Parameters
    ----------
    shares : mapping
        Whose secret to who holds a share to the share.
    threshold : int
        How many shares give a secret.
    fits : callable
        Whether a secret can be the one of a client.

    Raises
    ------
    ProtocolError
        If no holder alone explains what is wrong.
    """
    secrets = _recovered(shares, threshold, fits, None)
    if secrets is not None:
        return secrets, set()
    for holder in sorted({holder for held in shares.values() for holder in held}):
        secrets = _recovered(shares, threshold, fits, holder)
        if secrets is not None:
            return secrets, {holder}
    raise ProtocolError("the shares of the masks do not fit each other")


def _recovered(
    shares: Shares, threshold: int, fits: Callable[[int, bytes], bool], without: int | None
) -> dict[int, bytes] | None:
    secrets = {}
    for node, held in sorted(shares.items()):
        parts = [share for holder, share in sorted(held.items()) if holder != without]
        if len(parts) < threshold:
            return None
        try:
            secret = combine_shares(parts)
            if any(combine_shares(few) != secret for few in _subsets(parts, threshold)):
                return None
        except ValueError:
            return None
        if not fits(node, secret):
            return None
        secrets[node] = secret
    return secrets


def _subsets(parts: list[bytes], threshold: int) -> list[list[bytes]]:
    """Return subsets of `threshold` shares such that every share is missing from one of them."""
    spare = len(parts) - threshold
    if not spare:
        return []
    starts = [min(start, threshold) for start in range(0, len(parts), spare)]
    return [parts[:start] + parts[start + spare :] for start in starts]


def opens(public: bytes, secret: bytes) -> bool:
    """Return whether a private key, in PEM, is the one of a public key."""
    try:
        key = bytes_to_private_key(secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return public_key_to_bytes(key.public_key()) == public
