"""`RoundServer`: the server's side of one round of one cohort, free of any transport.

Each stage is a pair: ``..._requests`` says what to send to whom, ``take_...`` takes the replies
that came. Clients without a reply are left out where the protocol allows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from fedguard.encryption.errors import LostRoundError, ProtocolError
from fedguard.encryption.lattice import multikey, wire
from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.multikey import Aggregate, Ciphertext
from fedguard.encryption.lattice.packing import Packing, make_packing
from fedguard.encryption.protocol import transcript
from fedguard.encryption.protocol.agreement import Agreement, Payload, get, get_bytes
from fedguard.encryption.protocol.cohort_server import CohortServer, Replies
from fedguard.encryption.protocol.transcript import SumTag
from fedguard.encryption.protocol.weights import EXTRAS, GroupMean, group_mean

__all__ = ["Replies", "RoundServer"]

_SEALED_OVERHEAD = 12 + 32 + 16
"""Bytes of nonce, seed and authenticator in a sealed message."""


class RoundServer(CohortServer):
    """Relay, add and fuse for one cohort of multi-key CKKS; holds no secret.

    Parameters
    ----------
    agreement : Agreement
        The terms.
    size : int
        Length D of an update.
    """

    def __init__(self, agreement: Agreement, size: int) -> None:
        super().__init__(agreement, size)
        self.profile = agreement.profile
        self._reveals: dict[int, Mapping[str, object]] = {}
        self._ciphertexts: dict[int, bytes] = {}
        self._aggregate: Aggregate | None = None

    def take_reveals(self, replies: Replies) -> None:
        """Take the key shares; whoever sent none is not in the joint key."""
        for party in sorted(self._commits):
            if party in replies and self._sane(party, replies[party], self._check_reveal):
                self._reveals[party] = replies[party]
        self.members = tuple(sorted(self._reveals))

    def encrypt_requests(self) -> dict[int, Payload]:
        """Return stage 3: all key shares, and to each client what was sealed for it."""
        self._need(len(self.members), "revealed their key")
        present = sorted(self._commits)
        reveals = [self._reveals[party] for party in self.members]
        shared: Payload = {
            **self.terms,
            "members": list(self.members),
            "keys": [get(reveal, "key", bytes) for reveal in reveals],
            "nonces": [get(reveal, "nonce", bytes) for reveal in reveals],
        }
        return {
            party: {
                **shared,
                "sealed": [
                    get_bytes(reveal, "sealed", len(present))[present.index(party)]
                    for reveal in reveals
                ],
            }
            for party in self.members
        }

    def take_ciphertexts(self, replies: Replies) -> None:
        """Add up the ciphertexts that came."""
        for party in self.members:
            if party in replies and self._sane(party, replies[party], self._add_ciphertext):
                self._tags[party] = get(replies[party], "tag", bytes)
                self._ciphertexts[party] = get(replies[party], "ciphertext", bytes)
        self.contributors = tuple(sorted(self._tags))

    @property
    def missing(self) -> tuple[int, ...]:
        """Members of the joint key without a ciphertext in the sum."""
        return tuple(party for party in self.members if party not in self._tags)

    def leave_out(self, party: int, why: str) -> None:
        """Take a ciphertext out of the sum again; for a threshold, under which the rest opens."""
        ciphertext = Ciphertext.from_bytes(self.profile, self._ciphertexts.pop(party))
        assert self._aggregate is not None
        self._aggregate.remove(ciphertext)
        self.faults[party] = why
        del self._tags[party]
        self.contributors = tuple(sorted(self._tags))

    def share_requests(
        self, alive: tuple[int, ...] | None = None, *, without: int | None = None
    ) -> dict[int, Payload]:
        """Return stage 4: the sum, to everyone who must answer.

        Parameters
        ----------
        alive : tuple of int, optional
            With a threshold: members known to be there, of whom the first t are asked.
        without : int, optional
            With a threshold: a contributor whose ciphertext is left out of the sum that is sent.

        Raises
        ------
        LostRoundError
            If the sum cannot be decrypted any more; nothing has been asked then.
        """
        self._need(len(self.contributors), "sent a ciphertext")
        if self.agreement.threshold:
            asked = self._quorum(alive)
        elif self.missing:
            raise LostRoundError(
                f"{len(self.missing)} of {len(self.members)} clients vanished before they "
                "uploaded; the round must be begun anew without them"
            )
        else:
            asked = self.members
        request = self._sum_request(without)
        if self.agreement.threshold:
            request["quorum"] = list(asked)
        return dict.fromkeys(asked, request)

    def _quorum(self, alive: tuple[int, ...] | None) -> tuple[int, ...]:
        candidates = self.members if alive is None else alive
        present = [party for party in candidates if party in self.members]
        if len(present) < self.agreement.threshold:
            raise LostRoundError(
                f"{len(present)} of {len(self.members)} clients are left, "
                f"{self.agreement.threshold} are needed to decrypt; nothing was decrypted"
            )
        return tuple(sorted(present[: self.agreement.threshold]))

    def _sum_request(self, without: int | None) -> Payload:
        assert self._aggregate is not None
        contributors = [party for party in self.contributors if party != without]
        left_out = None if without is None else self._ciphertexts[without]
        tags = [self._tags[party] for party in contributors]
        return {
            **self.terms,
            "contributors": contributors,
            "sum": self._aggregate.sum_bytes(
                None if left_out is None else Ciphertext.from_bytes(self.profile, left_out)
            ),
            "tag": SumTag.add_tags(self.profile.data_ring, tags),
        }

    def dispute_requests(self) -> dict[int, Payload]:
        """Return what asks the clients that refused a sum to show what they tagged it with."""
        return {party: dict(self.terms) for party in self.members}

    def take_disputes(self, replies: Replies, model: bytes) -> tuple[int, ...]:
        """Return who sealed different seeds, told other seeds than it got, or tagged wrongly.

        Parameters
        ----------
        replies : mapping
            Party to the seeds that it was sealed, in the order of the members.
        model : bytes
            Digest of the model that was sent.
        """
        found: dict[int, list[bytes]] = {}
        for party in self.members:
            reply = replies.get(party, {})
            try:
                found[party] = get_bytes(reply, "seeds", len(self.members))
            except ProtocolError as error:
                self.faults.setdefault(party, str(error))
        if len(found) <= len(self.members) // 2:
            return ()
        seeds = []
        for column, sender in enumerate(self.members):
            seed, count = Counter(told[column] for told in found.values()).most_common(1)[0]
            seeds.append(seed)
            if count <= len(found) // 2:
                self.faults[sender] = "sealed different seeds for different clients"
                return (sender,)
        for party, told in found.items():
            if told != seeds:
                self.faults[party] = "does not tell the seeds that the others were sent"
                return (party,)
        secret = transcript.round_secret(self.view, self.members, model, seeds)
        check = SumTag(self.profile.data_ring, secret)
        liars = []
        for party, data in self._ciphertexts.items():
            c1 = Ciphertext.from_bytes(self.profile, data).c1
            if check.tag(c1, party) != self._tags[party]:
                self.faults[party] = "its tag is not that of its ciphertext"
                liars.append(party)
        return tuple(liars)

    def take_shares(self, asked: Mapping[int, Payload], replies: Replies) -> GroupMean:
        """Fuse the shares.

        Raises
        ------
        LostRoundError
            If a client that was asked did not answer.
        ChecksumError
            If the shares are not those of the sum.
        """
        shares = {}
        for party in asked:
            if party in replies and self._sane(party, replies[party], self._read_share):
                shares[party] = self._read_share(party, replies[party])
        if missing := [party for party in asked if party not in shares]:
            raise LostRoundError(
                f"{len(missing)} of {len(asked)} clients vanished before they sent their "
                "decryption share; nothing was decrypted"
            )
        assert self._aggregate is not None
        fused = multikey.fuse(self._aggregate, shares.values(), self._packing(), self.size + EXTRAS)
        return group_mean(
            fused, self.size, self.profile.clip, self._weight_limit(), self.contributors
        )

    def _packing(self) -> Packing:
        return make_packing(self.agreement.packing, self.profile, len(self.members))

    def _check_reveal(self, party: int, reply: Mapping[str, object]) -> None:
        key, nonce = get(reply, "key", bytes), get(reply, "nonce", bytes)
        multikey.read_key(self.profile, key)
        committed = transcript.commitment(self.agreement.context, party, key, nonce)
        if committed != get(self._commits[party], "commitment", bytes):
            raise ProtocolError("the key is not the one it committed to")
        length = _SEALED_OVERHEAD
        if self.agreement.threshold:
            length += wire.bytes_of(self.profile, range(len(self.profile.data_ring)), 1)
        for box in get_bytes(reply, "sealed", len(self._commits)):
            if len(box) != length:
                raise ProtocolError(f"a sealed message does not have {length} bytes")

    def _add_ciphertext(self, _: int, reply: Mapping[str, object]) -> None:
        SumTag.add_tags(self.profile.data_ring, [get(reply, "tag", bytes)])
        ciphertext = Ciphertext.from_bytes(self.profile, get(reply, "ciphertext", bytes))
        if self._aggregate is None:
            count = self._packing().count(self.size + EXTRAS)
            self._aggregate = Aggregate(self.profile, count)
        self._aggregate.add(ciphertext)

    def _read_share(self, _: int, reply: Mapping[str, object]) -> Residues:
        return multikey.read_share(self.profile, get(reply, "share", bytes))
