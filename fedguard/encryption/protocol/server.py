"""`RoundServer`: the server's side of one round of one cohort, free of any transport.

Each stage is a pair: ``..._requests`` says what to send to whom, ``take_...`` takes the replies
that came. Clients without a reply are left out where the protocol allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedguard.encryption.errors import LostRoundError, ProtocolError
from fedguard.encryption.lattice import multikey
from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.multikey import Aggregate, Ciphertext
from fedguard.encryption.lattice.packing import Packing, make_packing
from fedguard.encryption.protocol.agreement import Agreement, Payload, get, get_bytes
from fedguard.encryption.protocol.transcript import SumTag
from fedguard.encryption.protocol.weights import (
    EXTRAS,
    MAX_EXPONENT,
    GroupMean,
    group_mean,
    weight_limit,
)

Replies = Mapping[int, Mapping[str, object]]


class RoundServer:
    """Relay, add and fuse for one cohort; holds no secret.

    Parameters
    ----------
    agreement : Agreement
        The terms.
    size : int
        Length D of an update.

    Attributes
    ----------
    faults : dict of int to str
        Party to what was wrong with its reply.
    """

    def __init__(self, agreement: Agreement, size: int) -> None:
        self.agreement = agreement
        self.profile = agreement.profile
        self.size = size
        self.faults: dict[int, str] = {}
        self.contributors: tuple[int, ...] = ()
        self.members: tuple[int, ...] = ()
        self._commits: dict[int, Mapping[str, object]] = {}
        self._reveals: dict[int, Mapping[str, object]] = {}
        self._tags: dict[int, bytes] = {}
        self._aggregate: Aggregate | None = None

    @property
    def _terms(self) -> Payload:
        return {"round": self.agreement.server_round, "attempt": self.agreement.attempt}

    def commit_requests(self) -> dict[int, Payload]:
        """Return stage 1: the terms, to everyone in the cohort."""
        return {party: self.agreement.to_payload() for party in self.agreement.cohort}

    def take_commits(self, replies: Replies) -> None:
        """Take the commitments that came; the others are not in the joint key."""
        for party in self.agreement.cohort:
            if party in replies and sane(self.faults, party, replies[party], check_commit):
                self._commits[party] = replies[party]

    def reveal_requests(self) -> dict[int, Payload]:
        """Return stage 2: all commitments, to everyone who made one."""
        present = sorted(self._commits)
        self._need(len(present), "committed to a key")
        commits = [self._commits[party] for party in present]
        request: Payload = {
            **self._terms,
            "present": present,
            "commitments": [get(commit, "commitment", bytes) for commit in commits],
            "channels": [get(commit, "channel", bytes) for commit in commits],
            "exponents": [get(commit, "exponent", int) for commit in commits],
            "signatures": [get(commit, "signature", bytes) for commit in commits],
            "publics": [get(commit, "public", bytes) for commit in commits],
        }
        return dict.fromkeys(present, request)

    def take_reveals(self, replies: Replies) -> None:
        """Take the key shares; whoever sent none is not in the joint key."""
        for party in sorted(self._commits):
            if party in replies and sane(self.faults, party, replies[party], self._check_reveal):
                self._reveals[party] = replies[party]
        self.members = tuple(sorted(self._reveals))

    def encrypt_requests(self) -> dict[int, Payload]:
        """Return stage 3: all key shares, and to each client what was sealed for it."""
        self._need(len(self.members), "revealed their key")
        present = sorted(self._commits)
        reveals = [self._reveals[party] for party in self.members]
        shared: Payload = {
            **self._terms,
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
            if party in replies and sane(self.faults, party, replies[party], self._add_ciphertext):
                self._tags[party] = get(replies[party], "tag", bytes)
        self.contributors = tuple(sorted(self._tags))

    @property
    def missing(self) -> tuple[int, ...]:
        """Members of the joint key without a ciphertext in the sum."""
        return tuple(party for party in self.members if party not in self._tags)

    def share_requests(self, alive: tuple[int, ...] | None = None) -> dict[int, Payload]:
        """Return stage 4: the sum, to everyone who must answer.

        Parameters
        ----------
        alive : tuple of int, optional
            With a threshold: members known to be there, of whom the first t are asked.

        Raises
        ------
        LostRoundError
            If the sum cannot be decrypted any more; nothing has been asked then.
        """
        self._need(len(self.contributors), "sent a ciphertext")
        assert self._aggregate is not None
        request: Payload = {
            **self._terms,
            "contributors": list(self.contributors),
            "sum": self._aggregate.sum_bytes(),
            "tag": SumTag.add_tags(
                self.profile.data_ring, [self._tags[party] for party in self.contributors]
            ),
        }
        if not self.agreement.threshold:
            if self.missing:
                raise LostRoundError(
                    f"{len(self.missing)} of {len(self.members)} clients vanished before they "
                    "uploaded; the round must be begun anew without them"
                )
            return dict.fromkeys(self.members, request)
        present = [party for party in self.members if alive is None or party in alive]
        if len(present) < self.agreement.threshold:
            raise LostRoundError(
                f"{len(present)} of {len(self.members)} clients are left, "
                f"{self.agreement.threshold} are needed to decrypt; nothing was decrypted"
            )
        quorum = present[: self.agreement.threshold]
        request["quorum"] = quorum
        return dict.fromkeys(quorum, request)

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
            if party in replies and sane(self.faults, party, replies[party], self._read_share):
                shares[party] = self._read_share(party, replies[party])
        if missing := [party for party in asked if party not in shares]:
            raise LostRoundError(
                f"{len(missing)} of {len(asked)} clients vanished before they sent their "
                "decryption share; nothing was decrypted"
            )
        assert self._aggregate is not None
        fused = multikey.fuse(self._aggregate, shares.values(), self._packing(), self.size + EXTRAS)
        exponents = [get(self._commits[party], "exponent", int) for party in self.members]
        return group_mean(
            fused, self.size, self.profile.clip, weight_limit(exponents), self.contributors
        )

    def _packing(self) -> Packing:
        return make_packing(self.agreement.packing, self.profile, len(self.members))

    def _need(self, count: int, what: str) -> None:
        if not count:
            raise LostRoundError(f"no client of {len(self.agreement.cohort)} {what}")

    def _check_reveal(self, _: int, reply: Mapping[str, object]) -> None:
        multikey.read_key(self.profile, get(reply, "key", bytes))
        get(reply, "nonce", bytes)
        get_bytes(reply, "sealed", len(self._commits))

    def _add_ciphertext(self, _: int, reply: Mapping[str, object]) -> None:
        SumTag.add_tags(self.profile.data_ring, [get(reply, "tag", bytes)])
        ciphertext = Ciphertext.from_bytes(self.profile, get(reply, "ciphertext", bytes))
        if self._aggregate is None:
            count = self._packing().count(self.size + EXTRAS)
            self._aggregate = Aggregate(self.profile, count)
        self._aggregate.add(ciphertext)

    def _read_share(self, _: int, reply: Mapping[str, object]) -> Residues:
        return multikey.read_share(self.profile, get(reply, "share", bytes))


Check = Callable[[int, Mapping[str, object]], object]


def sane(faults: dict[int, str], party: int, reply: Mapping[str, object], check: Check) -> bool:
    """Run a check on a reply; note the fault and return False if it raises `ProtocolError`."""
    try:
        check(party, reply)
    except ProtocolError as error:
        faults[party] = str(error)
        return False
    return True


def check_commit(_: int, reply: Mapping[str, object]) -> None:
    """Check the form of a reply to stage 1."""
    sizes = {"commitment": 32, "channel": 32, "signature": 64, "public": 32}
    for name, size in sizes.items():
        if len(get(reply, name, bytes)) != size:
            raise ProtocolError(f"{name} does not have {size} bytes")
    if not 0 <= get(reply, "exponent", int) <= MAX_EXPONENT:
        raise ProtocolError("exponent out of range")
