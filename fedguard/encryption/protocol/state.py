"""What a client remembers of a round between its messages; never leaves the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedguard.encryption.lattice.multikey import SecretKey
from fedguard.encryption.protocol.agreement import Agreement, Payload, get, get_bytes, get_ints
from fedguard.encryption.protocol.stages import Stage


@dataclass(frozen=True)
class RoundState:
    """One round's keys and what was agreed on so far.

    Attributes
    ----------
    agreement : Agreement
        The terms.
    secret : SecretKey
        The client's share of the joint secret.
    channel_secret, nonce : bytes
        Key of the sealed channels; nonce of the commitment.
    key : bytes
        The public key share, until it is revealed.
    stage : int
        A `Stage`.
    present : tuple of int
        Who committed; `commitments`, `channels` and `exponents` are in this order.
    view, seed : bytes
        Digest of all commitments; this client's part of the common secret.
    members : tuple of int
        Whose keys the joint key holds.
    seeds : tuple of bytes
        What the members sealed for this client, in their order: the key of the transcript check.
    model, combined : bytes
        Digest of the model that was trained from; combined threshold share.
    answers, sum_digest : int, bytes
        How often it answered, and for which sum.
    """

    agreement: Agreement
    secret: SecretKey
    channel_secret: bytes
    nonce: bytes
    key: bytes
    stage: int = Stage.COMMITTED
    present: tuple[int, ...] = ()
    commitments: tuple[bytes, ...] = ()
    channels: tuple[bytes, ...] = ()
    exponents: tuple[int, ...] = ()
    view: bytes = b""
    seed: bytes = b""
    members: tuple[int, ...] = ()
    seeds: tuple[bytes, ...] = ()
    model: bytes = b""
    combined: bytes = b""
    answers: int = 0
    sum_digest: bytes = b""

    def wiped(self) -> RoundState:
        """Return the state without its secrets, once they are of no more use."""
        nothing = SecretKey(np.zeros_like(self.secret.coefficients))
        return replace(
            self,
            stage=Stage.ANSWERED,
            secret=nothing,
            channel_secret=b"",
            seed=b"",
            seeds=(),
            combined=b"",
        )

    def commitment_of(self, party: int) -> bytes:
        """Return what a party committed to."""
        return self.commitments[self.present.index(party)]

    def channel_of(self, party: int) -> bytes:
        """Return a party's channel key."""
        return self.channels[self.present.index(party)]

    def exponent_of(self, party: int) -> int:
        """Return the logarithm of examples a party announced."""
        return self.exponents[self.present.index(party)]

    def to_payload(self) -> Payload:
        """Return the state as plain fields."""
        payload = self.agreement.to_payload()
        payload |= {
            "secret": self.secret.to_bytes(),
            "channel_secret": self.channel_secret,
            "nonce": self.nonce,
            "key": self.key,
            "stage": int(self.stage),
            "present": list(self.present),
            "commitments": list(self.commitments),
            "channels": list(self.channels),
            "exponents": list(self.exponents),
            "view": self.view,
            "seed": self.seed,
            "members": list(self.members),
            "seeds": list(self.seeds),
            "model": self.model,
            "combined": self.combined,
            "answers": self.answers,
            "sum_digest": self.sum_digest,
        }
        return payload

    @classmethod
    def from_payload(cls, payload: Mapping[str, object]) -> RoundState:
        """Read what `to_payload` returned."""
        present = get_ints(payload, "present")
        return cls(
            agreement=Agreement.from_payload(payload),
            secret=SecretKey.from_bytes(get(payload, "secret", bytes)),
            channel_secret=get(payload, "channel_secret", bytes),
            nonce=get(payload, "nonce", bytes),
            key=get(payload, "key", bytes),
            stage=get(payload, "stage", int),
            present=present,
            commitments=tuple(get_bytes(payload, "commitments", len(present))),
            channels=tuple(get_bytes(payload, "channels", len(present))),
            exponents=get_ints(payload, "exponents"),
            view=get(payload, "view", bytes),
            seed=get(payload, "seed", bytes),
            members=get_ints(payload, "members"),
            seeds=tuple(get_bytes(payload, "seeds", len(get(payload, "seeds", list)))),
            model=get(payload, "model", bytes),
            combined=get(payload, "combined", bytes),
            answers=get(payload, "answers", int),
            sum_digest=get(payload, "sum_digest", bytes),
        )
