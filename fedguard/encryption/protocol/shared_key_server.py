"""`SharedKeyServer`: the server's side of plain CKKS; the stages of `RoundServer`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedguard.encryption.errors import LostRoundError, ProtocolError
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.protocol.agreement import Agreement, Payload, get, get_bytes
from fedguard.encryption.protocol.server import Replies, check_commit, sane
from fedguard.encryption.protocol.shared_key import opener_of
from fedguard.encryption.protocol.transcript import SumTag
from fedguard.encryption.protocol.weights import EXTRAS, GroupMean, group_mean, weight_limit


class SharedKeyServer:
    """Relay, add and ask the opener, for one cohort and as many rounds as it stays together.

    Parameters
    ----------
    agreement : Agreement
        The terms of the round in which the key is made.
    size : int
        Length D of an update.
    recipe : Recipe
        Ring and moduli: `tenseal_vectors.CHAIN`, or `STOCK` for the naive mode.
    """

    def __init__(
        self, agreement: Agreement, size: int, recipe: vectors.Recipe = vectors.CHAIN
    ) -> None:
        self.agreement = agreement
        self.size = size
        self.recipe = recipe
        self.server_round = agreement.server_round
        self.faults: dict[int, str] = {}
        self.members: tuple[int, ...] = ()
        self.contributors: tuple[int, ...] = ()
        self._commits: dict[int, Mapping[str, object]] = {}
        self._sealed: dict[int, bytes] = {}
        self._context = b""
        self._tags: dict[int, bytes] = {}
        self._vectors: dict[int, list[bytes]] = {}

    @property
    def missing(self) -> tuple[int, ...]:
        """Members without a ciphertext in the sum; the sum opens without them."""
        return ()

    def begin(self, server_round: int) -> None:
        """Start another round under the same key."""
        self.server_round = server_round
        self.faults = {}
        self.contributors = ()
        self._tags, self._vectors = {}, {}

    def commit_requests(self) -> dict[int, Payload]:
        """Return stage 1: the terms, to everyone."""
        return {party: self.agreement.to_payload() for party in self.agreement.cohort}

    def take_commits(self, replies: Replies) -> None:
        """Take the channel keys that came."""
        for party in self.agreement.cohort:
            if party in replies and sane(self.faults, party, replies[party], check_commit):
                self._commits[party] = replies[party]

    def reveal_requests(self) -> dict[int, Payload]:
        """Return stage 2: all channel keys, to everyone who sent one."""
        present = sorted(self._commits)
        if not present:
            raise LostRoundError("no client sent a channel key")
        commits = [self._commits[party] for party in present]
        request: Payload = {
            "present": present,
            "channels": [get(commit, "channel", bytes) for commit in commits],
            "signatures": [get(commit, "signature", bytes) for commit in commits],
            "publics": [get(commit, "public", bytes) for commit in commits],
            "exponents": [get(commit, "exponent", int) for commit in commits],
        }
        return dict.fromkeys(present, request)

    def take_reveals(self, replies: Replies) -> None:
        """Take the public context and the sealed keys that the leader sent."""
        self.members = tuple(sorted(self._commits))
        leader = self.members[0]
        reply = replies.get(leader, {})
        try:
            sealed = get_bytes(reply, "sealed", len(self.members))
            self._context = get(reply, "context", bytes)
        except ProtocolError as error:
            raise LostRoundError(f"client {leader}, who was to make the key, is gone") from error
        self._sealed = dict(zip(self.members, sealed, strict=True))

    def encrypt_requests(self) -> dict[int, Payload]:
        """Return stage 3; the sealed key goes along until the client has used it."""
        return {
            party: {"round": self.server_round, "sealed": self._sealed.get(party, b"")}
            for party in self.members
        }

    def take_ciphertexts(self, replies: Replies) -> None:
        """Take the encrypted updates that came."""
        for party in self.members:
            if party in replies and sane(self.faults, party, replies[party], self._check):
                reply = replies[party]
                self._vectors[party] = get_bytes(reply, "ciphertexts", self._count)
                self._tags[party] = get(reply, "tag", bytes)
                self._sealed.pop(party, None)
        self.contributors = tuple(sorted(self._vectors))

    @property
    def _count(self) -> int:
        return -(-(self.size + EXTRAS) // self.recipe.slots)

    def _check(self, _: int, reply: Mapping[str, object]) -> None:
        blobs = get_bytes(reply, "ciphertexts", self._count)
        vectors.polynomials_of(self.recipe, blobs)
        self._add_tags([get(reply, "tag", bytes)])

    def _add_tags(self, tags: list[bytes]) -> bytes:
        return b"" if self.recipe == vectors.STOCK else SumTag.add_tags(self.recipe.ring, tags)

    def share_requests(self, alive: tuple[int, ...] | None = None) -> dict[int, Payload]:
        """Return stage 4: the sum, to the round's opener."""
        if not self.contributors:
            raise LostRoundError("no client sent a ciphertext")
        context = vectors.context_of(self._context)
        columns = [self._vectors[party] for party in self.contributors]
        request: Payload = {
            "round": self.server_round,
            "contributors": list(self.contributors),
            "sum": list(vectors.add_vectors(context, columns)),
            "tag": self._add_tags([self._tags[p] for p in self.contributors]),
        }
        return {opener_of(self.members, self.server_round): request}

    def take_shares(self, asked: Mapping[int, Payload], replies: Replies) -> GroupMean:
        """Return the mean that the opener released.

        Raises
        ------
        LostRoundError
            If it did not answer.
        """
        opener = opener_of(self.members, self.server_round)
        try:
            values = np.frombuffer(get(replies.get(opener, {}), "values", bytes), dtype="<f8")
        except ProtocolError as error:
            raise LostRoundError(
                f"client {opener}, who was to open the sum, did not; nothing was decrypted"
            ) from error
        if values.size < self.size + EXTRAS or not np.isfinite(values).all():
            raise ProtocolError("the opened sum has the wrong length or is not finite")
        exponents = [get(self._commits[party], "exponent", int) for party in self.members]
        return group_mean(
            values, self.size, self.recipe.clip, weight_limit(exponents), self.contributors
        )
