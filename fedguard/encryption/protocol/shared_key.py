"""Plain CKKS: the clients share one key pair, the server holds the public context.

What most public examples do, with their leaks closed as far as one shared key allows. Any single
client that colludes with the server opens every update; multi-key CKKS does not have this. The
stages have the names of `ClientSession`'s:

1. ``commit``   send a signed channel key
2. ``reveal``   the leader makes the key pair and seals the secret context for every client
3. ``encrypt``  encrypt the update; tag the ciphertexts
4. ``share``    the round's opener decrypts the checked sum and releases it with flooding

The decrypted sum is released as floats. Without noise, two ciphertexts and those floats give the
secret key away (Li and Micciancio, "On the Security of Homomorphic Encryption on Approximate
Numbers", EUROCRYPT 2021). Stages 1 and 2 happen once per cohort.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import numpy as np

from fedguard.encryption.errors import ProtocolError, RefusedError
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.lattice.backend_tenseal import public_bytes
from fedguard.encryption.lattice.packing import Values
from fedguard.encryption.lattice.sampling import RandomSource
from fedguard.encryption.protocol import transcript
from fedguard.encryption.protocol.agreement import (
    Agreement,
    Payload,
    get,
    get_bytes,
    get_ints,
    get_parties,
)
from fedguard.encryption.protocol.client import Guards
from fedguard.encryption.protocol.identity import Channel, Identity, Roster
from fedguard.encryption.protocol.weights import exponent_of, weight_limit, weighted_values

NO_COMMITMENT = bytes(32)
"""Stands where multi-key CKKS commits to a key share."""


def opener_of(members: tuple[int, ...], server_round: int) -> int:
    """Return who decrypts in a round; fixed, or the server could have two sums opened."""
    return members[server_round % len(members)]


class SharedKeyClient:
    """One client's side of plain CKKS.

    Parameters
    ----------
    party, identity, roster, source, memory, guards
        As for `ClientSession`.
    """

    def __init__(
        self,
        party: int,
        identity: Identity,
        roster: Roster,
        source: RandomSource,
        memory: MutableMapping[str, Payload],
        guards: Guards | None = None,
    ) -> None:
        self.party = party
        self.identity = identity
        self.roster = roster
        self.source = source
        self.memory = memory
        self.guards = guards or Guards()

    @property
    def recipe(self) -> vectors.Recipe:
        """Ring and moduli in use."""
        return vectors.CHAIN if self.guards.flooding else vectors.STOCK

    def commit(self, request: Mapping[str, object], num_examples: float) -> Payload:
        """Send a signed channel key and the rounded logarithm of the number of examples."""
        agreement = Agreement.from_payload(request)
        self._check_size(len(agreement.cohort))
        if self.party not in agreement.cohort:
            raise RefusedError("this client is not in the cohort")
        channel = Channel(self.source.bytes(32))
        reply: Payload = {
            "commitment": NO_COMMITMENT,
            "channel": channel.public,
            "exponent": exponent_of(num_examples),
            "public": self.identity.public,
        }
        reply["signature"] = self.identity.sign(agreement.commit_statement(self.party, reply))
        self.memory["key"] = {**agreement.to_payload(), "channel_secret": channel.secret}
        return reply

    def reveal(self, request: Mapping[str, object]) -> Payload:
        """Check everyone's channel key; the leader also makes and seals the key pair."""
        state = self._state("channel_secret")
        agreement = Agreement.from_payload(state)
        members = get_parties(request, "present", agreement.cohort)
        channels = get_bytes(request, "channels", len(members))
        signatures = get_bytes(request, "signatures", len(members))
        publics = get_bytes(request, "publics", len(members))
        exponents = get_ints(request, "exponents")
        self._check_size(len(members))
        if self.party not in members or len(exponents) != len(members):
            raise ProtocolError("the list of members is incomplete")
        statements = []
        for party, channel, signature, public, exponent in zip(
            members, channels, signatures, publics, exponents, strict=True
        ):
            row = {"commitment": NO_COMMITMENT, "channel": channel, "exponent": exponent}
            statements.append(agreement.commit_statement(party, row))
            self.roster.learn(party, public)
            self.roster.verify(party, statements[-1], signature)
        view = agreement.view(members, statements)
        self.memory["key"] = {
            **state,
            "members": list(members),
            "exponents": list(exponents),
            "view": view,
            "leader_channel": channels[0],
        }
        return self._deal(members, channels, view) if self.party == members[0] else {}

    def _deal(self, members: tuple[int, ...], channels: list[bytes], view: bytes) -> Payload:
        context = vectors.make_key_pair(self.recipe, len(members))
        secret = self.source.bytes(32) + vectors.private_bytes(context)
        channel = Channel(get(self.memory["key"], "channel_secret", bytes))
        sealed = [
            channel.seal(peer, self.party, party, view, secret)
            for party, peer in zip(members, channels, strict=True)
        ]
        return {"context": public_bytes(context), "sealed": sealed}

    def encrypt(
        self, request: Mapping[str, object], update: Values, num_examples: float
    ) -> Payload:
        """Encrypt the update; the first time, open what the leader sealed."""
        if box := get(request, "sealed", bytes):
            self._open_key(box)
        state = self._state("context")
        server_round = get(request, "round", int)
        limit = weight_limit(get_ints(state, "exponents"))
        values = weighted_values(update, num_examples, limit, self.recipe.clip)
        context = vectors.context_of(get(state, "context", bytes))
        blobs = vectors.encrypt_vector(context, values, self.recipe.slots)
        tag = b""
        if self.guards.transcript:
            polynomials = vectors.polynomials_of(self.recipe, blobs)
            tag = self._sum_tag(server_round).tag(polynomials, self.party)
        return {"ciphertexts": list(blobs), "tag": tag}

    def _open_key(self, box: bytes) -> None:
        state = self._state("view")
        channel = Channel(get(state, "channel_secret", bytes))
        secret = channel.open(
            get(state, "leader_channel", bytes),
            get_ints(state, "members")[0],
            self.party,
            get(state, "view", bytes),
            box,
        )
        self.memory["key"] = {**state, "tag_key": secret[:32], "context": secret[32:]}

    def _sum_tag(self, server_round: int) -> transcript.SumTag:
        key = get(self.memory["key"], "tag_key", bytes)
        label = server_round.to_bytes(8, "little")
        return transcript.SumTag(self.recipe.ring, transcript.digest("round", key, label))

    def share(self, request: Mapping[str, object]) -> Payload:
        """Decrypt the sum, if it is one and this client is the round's opener; once."""
        state = self._state("context")
        members = get_ints(state, "members")
        contributors = get_parties(request, "contributors", members)
        server_round = get(request, "round", int)
        self._check_size(len(contributors))
        self._check_turn(server_round, members)
        blobs = get_bytes(request, "sum", len(get(request, "sum", list)))
        if self.guards.transcript:
            polynomials = vectors.polynomials_of(self.recipe, blobs)
            tag = get(request, "tag", bytes)
            if not self._sum_tag(server_round).holds(polynomials, tag, contributors):
                raise RefusedError(
                    "what the server calls the sum is not the sum of the ciphertexts"
                )
        values = vectors.decrypt_vector(vectors.context_of(get(state, "context", bytes)), blobs)
        self.memory["opened"] = {"round": server_round}
        if self.guards.flooding:
            values = values + self._noise(values.size, len(members))
        return {"values": values.astype("<f8").tobytes()}

    def _state(self, needed: str) -> Payload:
        state = self.memory.get("key", {})
        if needed not in state:
            raise RefusedError("this client has no shared key yet")
        return state

    def _check_turn(self, server_round: int, members: tuple[int, ...]) -> None:
        if not self.guards.one_answer:
            return
        if self.party != opener_of(members, server_round):
            raise RefusedError(f"client {self.party} is not the opener of round {server_round}")
        last = self.memory.get("opened", {"round": -1})
        if server_round <= get(last, "round", int):
            raise RefusedError(f"round {server_round}: this client has opened a sum already")

    def _check_size(self, participants: int) -> None:
        if participants < self.guards.minimum_participants:
            raise RefusedError(
                f"{participants} participants, this client wants at least "
                f"{self.guards.minimum_participants}"
            )

    def _noise(self, size: int, clients: int) -> Values:
        """Return Gaussian noise from the secret source."""
        words = np.frombuffer(self.source.bytes(16 * size), dtype="<u8").reshape(2, size)
        unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        normal = np.sqrt(-2 * np.log1p(-unit[0])) * np.cos(2 * np.pi * unit[1])
        noise: Values = normal * vectors.flooding_std(clients)
        return noise
