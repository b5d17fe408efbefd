"""Plain CKKS: the clients share one secret key, the server holds none.

What most public examples do, with their leaks closed as far as one shared key allows. Any single
client that colludes with the server opens every update; multi-key CKKS does not have this. The
first stages have the names of `ClientSession`'s and happen once per cohort:

1. ``commit``   send a signed channel key
2. ``reveal``   the leader draws the secret key and seals it for every client

and these once per round:

3. ``encrypt``  encrypt the update; tag the ciphertexts
4. ``check``    three clients say whether the sum is that of the tagged ciphertexts
5. ``confirm``  sign the list of whose updates are in the sum, one list per round
6. ``share``    given the signatures of most members, three openers decrypt the checked sum and
   release it with flooding, each with its own; two must agree

Two lists cannot both have the signatures of most members, so whoever opens opens the same sum: the
consistency check of Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine
Learning", CCS 2017.

The decrypted sum is released as floats. Without noise, two ciphertexts and those floats give the
secret key away (Li and Micciancio, "On the Security of Homomorphic Encryption on Approximate
Numbers", EUROCRYPT 2021).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedguard.encryption.errors import DisputedError, ProtocolError, RefusedError
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.packing import Values
from fedguard.encryption.protocol import transcript
from fedguard.encryption.protocol.agreement import (
    Agreement,
    Payload,
    get,
    get_bytes,
    get_count,
    get_ints,
    get_parties,
)
from fedguard.encryption.protocol.identity import Channel
from fedguard.encryption.protocol.ledger import Training, cohort_digest
from fedguard.encryption.protocol.party import CohortClient
from fedguard.encryption.protocol.stages import SHARED_KEY, Stage, next_stage
from fedguard.encryption.protocol.weights import weight_limit, weighted_values

NO_COMMITMENT = bytes(32)
"""Stands where multi-key CKKS commits to a key share."""
RECIPE = vectors.CHAIN
"""Ring and moduli in use."""

_KEY = "key"
_SEED = 32


def most(members: tuple[int, ...]) -> int:
    """Return how many members must have confirmed a sum: more than half."""
    return len(members) // 2 + 1


def list_statement(view: bytes, server_round: int, contributors: tuple[int, ...]) -> bytes:
    """Return what a member signs when it confirms whose updates are in a round's sum."""
    label = server_round.to_bytes(8, "little")
    return transcript.digest("contributors", view, label, repr(contributors).encode())


class SharedKeyClient(CohortClient):
    """One client's side of plain CKKS; see `CohortClient` for the parameters."""

    def commit(self, request: Mapping[str, object], num_examples: float) -> Payload:
        """Send a signed channel key and the rounded logarithm of the number of examples."""
        agreement = self._read_terms(request)
        found = self.memory.get(_KEY)
        if found is not None and self.guards.one_answer:
            before = Agreement.from_payload(found)
            if (agreement.server_round, agreement.attempt) <= (before.server_round, before.attempt):
                raise RefusedError(f"round {agreement.label}: keys were already made")
        channel = Channel(self.source.bytes(32))
        reply = self._signed_commit(agreement, NO_COMMITMENT, channel, num_examples)
        self._keep(Stage.COMMITTED, {**agreement.to_payload(), "channel_secret": channel.secret})
        return reply

    def reveal(self, request: Mapping[str, object]) -> Payload:
        """Check everyone's channel key; the leader also draws and seals the secret key."""
        state = self._recall("reveal")
        agreement = Agreement.from_payload(state)
        commits = self._read_commits(agreement, request)
        known: Payload = {
            **state,
            "members": list(commits.present),
            "exponents": list(commits.exponents),
            "view": commits.view,
            "leader_channel": commits.channels[0],
        }
        reply: Payload = {}
        if self.party == commits.present[0]:
            secret = self.source.bytes(_SEED) + vectors.make_secret(RECIPE, self.source)
            channel = Channel(get(state, "channel_secret", bytes))
            reply["sealed"] = [
                channel.seal(peer, self.party, party, commits.view, secret, self.source.bytes(12))
                for party, peer in zip(commits.present, commits.channels, strict=True)
            ]
        self._keep(Stage.REVEALED, known)
        return reply

    def encrypt(
        self,
        request: Mapping[str, object],
        update: Values,
        num_examples: float,
        training: Training,
    ) -> Payload:
        """Encrypt the update; the first time, open what the leader sealed."""
        state = self._recall("encrypt")
        server_round = get_count(request, "round")
        self._check_later(state, server_round)
        if "secret" not in state:
            state = self._open_key(state, get(request, "sealed", bytes))
        members = get_ints(state, "members")
        values = weighted_values(
            update, num_examples, weight_limit(get_ints(state, "exponents")), RECIPE.clip
        )
        if self.guards.bound_update:
            ledger, cohort = self.ledger, cohort_digest(members)
            ledger.check(training, server_round, cohort, once=True)
            ledger.note(training, cohort, once=True)
        state = {**state, "current": server_round, "model": training.model, "contributors": []}
        self._keep(Stage.ENCRYPTED, state)
        context = vectors.key_pair_of(get(state, "secret", bytes), len(members))
        polynomials = vectors.encrypt_vector(context, RECIPE, values)
        tag = self._sum_tag(state).tag(polynomials, self.party)
        return {"ciphertext": vectors.write_vector(RECIPE, polynomials), "tag": tag}

    def _check_later(self, state: Payload, server_round: int) -> None:
        if "current" in state:
            earliest = get(state, "current", int) + 1
        else:
            earliest = get(state, "round", int)
        if self.guards.one_answer and server_round < earliest:
            raise RefusedError(f"round {server_round}: this client has encrypted for it already")

    def _open_key(self, state: Payload, box: bytes) -> Payload:
        channel = Channel(get(state, "channel_secret", bytes))
        leader = get_ints(state, "members")[0]
        view = get(state, "view", bytes)
        peer = get(state, "leader_channel", bytes)
        text = channel.open(peer, leader, self.party, view, box)
        try:
            vectors.read_secret(RECIPE, text[_SEED:])
        except ProtocolError as error:
            raise RefusedError(f"client {leader}: {error}", leader) from error
        return {**state, "tag_key": text[:_SEED], "secret": text[_SEED:]}

    def _sum_tag(self, state: Payload) -> transcript.SumTag:
        secret = transcript.digest(
            "round",
            get(state, "tag_key", bytes),
            get(state, "view", bytes),
            get(state, "current", int).to_bytes(8, "little"),
            get(state, "model", bytes),
        )
        return transcript.SumTag(RECIPE.ring, secret)

    def check(self, request: Mapping[str, object]) -> Payload:
        """Say whether a sum is one of tagged ciphertexts; shows nothing and changes nothing."""
        state = self._recall("check")
        contributors = self._contributors(state, request)
        self._read_sum(state, contributors, request)
        return {}

    def _read_sum(
        self, state: Payload, contributors: tuple[int, ...], request: Mapping[str, object]
    ) -> Residues:
        count = RECIPE.count(get(request, "size", int))
        total = vectors.read_vector(RECIPE, count, get(request, "sum", bytes))
        tag = get(request, "tag", bytes)
        if self.guards.transcript and not self._sum_tag(state).holds(total, tag, contributors):
            raise DisputedError("what the server calls the sum is not the sum of the ciphertexts")
        return total

    def confirm(self, request: Mapping[str, object]) -> Payload:
        """Sign the list of contributors, once per round."""
        state = self._recall("confirm")
        contributors = self._contributors(state, request)
        if self.party not in contributors:
            raise RefusedError("the sum leaves this client's update out")
        self._keep(Stage.CONFIRMED, {**state, "contributors": list(contributors)})
        return {"signature": self.identity.sign(self._statement(state, contributors))}

    def _contributors(self, state: Payload, request: Mapping[str, object]) -> tuple[int, ...]:
        server_round = get_count(request, "round")
        if self.guards.one_answer and server_round != get(state, "current", int):
            raise RefusedError(f"round {server_round}: this client has encrypted for another round")
        contributors = get_parties(request, "contributors", get_ints(state, "members"))
        self.guards.check_size(len(contributors))
        return contributors

    def _statement(self, state: Payload, contributors: tuple[int, ...]) -> bytes:
        current = get(state, "current", int)
        return list_statement(get(state, "view", bytes), current, contributors)

    def share(self, request: Mapping[str, object]) -> Payload:
        """Decrypt the sum, if it is the one that most members confirmed; once."""
        state = self._recall("share")
        contributors = self._contributors(state, request)
        members = get_ints(state, "members")
        if self.guards.one_answer:
            self._check_confirmed(state, contributors, members, request)
        total = self._read_sum(state, contributors, request)
        self._keep(Stage.ANSWERED, state)
        context = vectors.key_pair_of(get(state, "secret", bytes), len(members))
        values = vectors.decrypt_vector(context, RECIPE, total)
        if self.guards.flooding:
            values = values + self._noise(values.size, len(members))
        return {"values": values.astype("<f8").tobytes()}

    def _check_confirmed(
        self,
        state: Payload,
        contributors: tuple[int, ...],
        members: tuple[int, ...],
        request: Mapping[str, object],
    ) -> None:
        if list(contributors) != list(get_ints(state, "contributors")):
            raise RefusedError("this client has confirmed another sum")
        signers = get_parties(request, "signers", members)
        if len(signers) < most(members):
            raise RefusedError(
                f"{len(signers)} members have confirmed the sum, {most(members)} are needed"
            )
        statement = self._statement(state, contributors)
        signatures = get_bytes(request, "signatures", len(signers))
        for party, signature in zip(signers, signatures, strict=True):
            self.roster.verify(party, statement, signature)

    def _keep(self, stage: Stage, state: Payload) -> None:
        self.memory[_KEY] = {**state, "stage": int(stage)}

    def _recall(self, message: str) -> Payload:
        """Return the state that a message belongs to; raises if it comes out of turn."""
        state = self.memory.get(_KEY, {"stage": int(Stage.NEW)})
        stage = get(state, "stage", int)
        if self.guards.one_answer or stage < Stage.REVEALED:
            label = str(state.get("current", state.get("round", "?")))
            next_stage(SHARED_KEY, message, stage, label)
        return state

    def _noise(self, size: int, clients: int) -> Values:
        """Return Gaussian noise from the secret source."""
        words = np.frombuffer(self.source.bytes(16 * size), dtype="<u8").reshape(2, size)
        unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        normal = np.sqrt(-2 * np.log1p(-unit[0])) * np.cos(2 * np.pi * unit[1])
        noise: Values = normal * vectors.flooding_std(clients)
        return noise
