"""Blind RSA signatures, RSABSSA-SHA384-PSS-Randomized of RFC 9474.

Keys are made, and finished signatures are checked, by `cryptography`. It offers no RSA operation on
bare numbers, which a blind signer needs, so the three exponentiations and the PSS encoding stand
here. Python's `pow` does not run in constant time; the signer therefore multiplies what it is given
by a random number of its own before the secret exponent touches it, as the RFC advises.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedguard.enrolment.groups import Bytes
from fedguard.enrolment.reasons import FORGED_TOKEN, MALFORMED, NotAdmittedError
from fedguard.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

BITS = 2048
EXPONENT = 65537
SALT = HASH = 48
PREFIX = 32
"""Bytes of PSS's salt, of SHA-384 and of the random prefix in front of a message."""


def require_cryptography() -> None:
    """Raise one line that says what to install where `cryptography` is missing."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "variant", "blind", "k-pseudonym; blind needs: pip install 'fedguard[encryption]'"
        ) from None


def make_key() -> RSAPrivateKey:
    """Return a fresh RSA key."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(EXPONENT, BITS)


def public_bytes(key: RSAPublicKey) -> bytes:
    """Return a public key's modulus; the exponent is always 65537."""
    return key.public_numbers().n.to_bytes(BITS // 8, "big")


def public_key(raw: bytes) -> RSAPublicKey:
    """Return the public key of a modulus.

    Raises
    ------
    NotAdmittedError
        If it is no modulus of 2048 bits.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa

    modulus = int.from_bytes(raw, "big")
    if len(raw) != BITS // 8 or modulus.bit_length() != BITS or modulus % 2 == 0:
        raise NotAdmittedError(MALFORMED)
    return rsa.RSAPublicNumbers(EXPONENT, modulus).public_key()


@dataclass(frozen=True)
class Blinded:
    """A message on its way to the signer, and what its owner keeps.

    Attributes
    ----------
    message : bytes
        The message with its random prefix.
    request : bytes
        256 bytes for the signer: uniform, whatever the message is.
    inverse : int
        What takes the blinding away again.
    """

    message: bytes
    request: bytes
    inverse: int


def blind(key: RSAPublicKey, message: bytes, random: Bytes) -> Blinded:
    """Return a message blinded for a signer: ``encoded(prefix | message) * r^e mod n``."""
    n = key.public_numbers().n
    prepared = random(PREFIX) + message
    encoded = int.from_bytes(pss_encode(prepared, random(SALT), n.bit_length() - 1), "big")
    factor = _unit(n, random)
    request = encoded * pow(factor, EXPONENT, n) % n
    return Blinded(prepared, request.to_bytes(BITS // 8, "big"), pow(factor, -1, n))


def sign_blinded(key: RSAPrivateKey, request: bytes, random: Bytes) -> bytes:
    """Return the signer's answer: ``request^d mod n``.

    Raises
    ------
    NotAdmittedError
        If the request is no number below n.
    """
    secret = key.private_numbers()
    n = secret.public_numbers.n
    number = int.from_bytes(request, "big")
    if len(request) != BITS // 8 or not 0 < number < n:
        raise NotAdmittedError(MALFORMED)
    factor = _unit(n, random)
    hidden = number * pow(factor, EXPONENT, n) % n
    left = pow(hidden % secret.p, secret.dmp1, secret.p)
    right = pow(hidden % secret.q, secret.dmq1, secret.q)
    whole = right + secret.q * ((left - right) * secret.iqmp % secret.p)
    signed = whole * pow(factor, -1, n) % n
    if pow(signed, EXPONENT, n) != number:  # a faulty half of the CRT would give the key away
        raise ArithmeticError("an RSA operation went wrong")
    return signed.to_bytes(BITS // 8, "big")


def finish(key: RSAPublicKey, blinded: Blinded, answer: bytes) -> bytes:
    """Return the signature of a blinded message.

    Raises
    ------
    NotAdmittedError
        If the signer's answer is not a signature under this key.
    """
    n = key.public_numbers().n
    signature = int.from_bytes(answer, "big") * blinded.inverse % n
    raw = signature.to_bytes(BITS // 8, "big")
    if len(answer) != BITS // 8 or not verify(key, blinded.message, raw):
        raise NotAdmittedError(FORGED_TOKEN)
    return raw


def verify(key: RSAPublicKey, message: bytes, signature: bytes) -> bool:
    """Return whether a signature of a message with its prefix holds: plain RSA-PSS."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    scheme = padding.PSS(padding.MGF1(hashes.SHA384()), SALT)
    try:
        key.verify(signature, message, scheme, hashes.SHA384())
    except InvalidSignature:
        return False
    return True


def pss_encode(message: bytes, salt: bytes, bits: int) -> bytes:
    """Return EMSA-PSS-ENCODE of RFC 8017, section 9.1.1, with SHA-384.

    Parameters
    ----------
    message, salt : bytes
        What is encoded, with 48 random bytes.
    bits : int
        Bits of the result: one less than the modulus has.
    """
    length = (bits + 7) // 8
    told = hashlib.sha384(bytes(8) + hashlib.sha384(message).digest() + salt).digest()
    data = bytes(length - SALT - HASH - 2) + b"\x01" + salt
    mask = _mgf1(told, len(data))
    masked = bytearray(a ^ b for a, b in zip(data, mask, strict=True))
    masked[0] &= 0xFF >> (8 * length - bits)
    return bytes(masked) + told + b"\xbc"


def _mgf1(seed: bytes, length: int) -> bytes:
    blocks = range((length + HASH - 1) // HASH)
    return b"".join(hashlib.sha384(seed + i.to_bytes(4, "big")).digest() for i in blocks)[:length]


def _unit(n: int, random: Bytes) -> int:
    """Return a random number that has an inverse modulo n."""
    while True:
        # 16 bytes more than n has make the remainder uniform to 2^-128.
        found = int.from_bytes(random(BITS // 8 + 16), "big") % n
        if found > 1 and math.gcd(found, n) == 1:
            return found
