"""Who is who among clients when the server relays everything: signatures and sealed messages.

Guards that hold against the server need an authentication that the server cannot forge. Every
client has an Ed25519 key; the roster of public keys comes from enrolment. Messages from client to
client are sealed under an X25519 key agreement that both sides signed for one round.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedguard.encryption.errors import ProtocolError, RefusedError
from fedguard.encryption.lattice.sampling import RandomSource

NONCE_BYTES = 12
"""Fresh bytes in front of every sealed message, though every key should seal one only."""


class Identity:
    """A client's signing key.

    Parameters
    ----------
    secret : bytes
        32 bytes of the Ed25519 private key.
    """

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._key = Ed25519PrivateKey.from_private_bytes(secret)

    @classmethod
    def generate(cls, source: RandomSource) -> Identity:
        """Return a fresh identity."""
        return cls(source.bytes(32))

    @property
    def public(self) -> bytes:
        """The 32-byte public key that the roster lists."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, statement: bytes) -> bytes:
        """Return the 64-byte signature of a statement."""
        return self._key.sign(statement)


class Roster:
    """The public keys of all enrolled clients.

    Parameters
    ----------
    keys : mutable mapping of int to bytes
        Party id to Ed25519 public key.
    first_use : bool
        Take the key that comes with a party's first message for its own, for want of enrolment.
        The guards then hold against a server that is honest at first contact.
    """

    def __init__(self, keys: MutableMapping[int, bytes], *, first_use: bool = False) -> None:
        self.keys = keys
        self.first_use = first_use

    def learn(self, party: int, key: bytes) -> None:
        """Note the key that came with a message, if keys are taken on first use."""
        if self.first_use and len(key) == 32:
            self.keys.setdefault(party, key)

    def verify(self, party: int, statement: bytes, signature: bytes) -> None:
        """Raise `RefusedError` unless `party` is enrolled and signed the statement."""
        key = self.keys.get(party)
        if key is None:
            raise RefusedError(f"client {party} is not on the roster", party)
        if not is_signed(key, statement, signature):
            raise RefusedError(f"the signature of client {party} is wrong", party)


@lru_cache(maxsize=1 << 14)
def is_signed(key: bytes, statement: bytes, signature: bytes) -> bool:
    """Return whether a signature holds; cached, since clients in one process ask the same."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True


class Channel:
    """One client's end of the sealed channels of one round.

    Parameters
    ----------
    secret : bytes
        32 bytes of an X25519 private key, fresh for the round.
    """

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._key = X25519PrivateKey.from_private_bytes(secret)

    @property
    def public(self) -> bytes:
        """The 32-byte public key."""
        return self._key.public_key().public_bytes_raw()

    def _cipher(self, peer: bytes, label: bytes) -> ChaCha20Poly1305:
        try:
            agreed = self._key.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError as error:
            raise ProtocolError(f"a channel key is unusable: {error}") from error
        derived = HKDF(SHA256(), 32, salt=None, info=b"fedguard channel" + label).derive(agreed)
        return ChaCha20Poly1305(derived)

    def seal(
        self, peer: bytes, sender: int, receiver: int, context: bytes, text: bytes, nonce: bytes
    ) -> bytes:
        """Encrypt `text` for the owner of the public key `peer`.

        Parameters
        ----------
        peer : bytes
            The receiver's public key.
        sender, receiver : int
            Who they are.
        context : bytes
            What both sides know of the round; the message opens with it alone.
        text : bytes
            The message.
        nonce : bytes
            12 bytes that were never used before.
        """
        label = _direction(sender, receiver) + context
        try:
            cipher = self._cipher(peer, label)
        except ProtocolError as error:
            raise RefusedError(f"client {receiver}: {error}", receiver) from error
        return nonce + cipher.encrypt(nonce, text, context)

    def open(self, peer: bytes, sender: int, receiver: int, context: bytes, box: bytes) -> bytes:
        """Decrypt what `seal` made.

        Raises
        ------
        RefusedError
            If it was made by someone else, for someone else or for another round.
        """
        label = _direction(sender, receiver) + context
        try:
            cipher = self._cipher(peer, label)
            return cipher.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], context)
        except (InvalidTag, ValueError, ProtocolError) as error:
            reason = f"a sealed message of client {sender} does not open"
            raise RefusedError(reason, sender) from error


def check_channel(public: bytes) -> None:
    """Raise `ProtocolError` unless messages can be sealed for the owner of this public key."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError(f"a channel key is unusable: {error}") from error


def _direction(sender: int, receiver: int) -> bytes:
    return sender.to_bytes(8, "little", signed=False) + receiver.to_bytes(8, "little")
