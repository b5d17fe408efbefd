"""`ClientSession`: one client's side of the protocol, with its guards.

A round has four stages, each one request of the server and one reply:

1. ``commit``   draw fresh keys; send a signed commitment to the public key share
2. ``reveal``   given everyone's commitments, send the share, and each peer a sealed seed
3. ``encrypt``  given everyone's shares, check them, add them up, encrypt the update under the sum
4. ``share``    given the sum of ciphertexts, check it, answer once with a flooded share

Stages 1 and 2 of the next round travel with 3 and 4 of this one. Where the sum was not the sum, a
fifth, ``dispute``, drops the keys and shows what the server needs to find out who lied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace

from fedguard.encryption.errors import DisputedError, ProtocolError, RefusedError
from fedguard.encryption.lattice import multikey, threshold, wire
from fedguard.encryption.lattice.backend import Backend
from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.multikey import JointKey, SecretKey
from fedguard.encryption.lattice.packing import Values, make_packing
from fedguard.encryption.lattice.sampling import RandomSource
from fedguard.encryption.protocol import transcript
from fedguard.encryption.protocol.agreement import (
    Agreement,
    Payload,
    get,
    get_bytes,
    get_count,
    get_parties,
)
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.identity import Channel, Identity, Roster
from fedguard.encryption.protocol.ledger import LEDGER, Training, cohort_digest
from fedguard.encryption.protocol.party import CohortClient
from fedguard.encryption.protocol.stages import MULTI_KEY, Stage, next_stage
from fedguard.encryption.protocol.state import RoundState
from fedguard.encryption.protocol.weights import weight_limit, weighted_values

__all__ = ["ClientSession", "Guards"]

_MOST_ROUNDS = 8
"""Rounds and attempts that may be under way; the honest server needs two."""


class ClientSession(CohortClient):
    """One client of multi-key CKKS across the rounds of a run.

    Parameters
    ----------
    backend : Backend
        Encrypts.
    party, identity, roster, source, memory, guards, run
        See `CohortClient`.
    """

    def __init__(
        self,
        party: int,
        identity: Identity,
        roster: Roster,
        backend: Backend,
        source: RandomSource,
        memory: MutableMapping[str, Payload],
        guards: Guards | None = None,
        run: bytes = b"",
    ) -> None:
        super().__init__(party, identity, roster, source, memory, guards, run)
        self.backend = backend

    def commit(self, request: Mapping[str, object], num_examples: float) -> Payload:
        """Draw fresh keys and commit to them.

        Parameters
        ----------
        request : mapping
            The terms; see `Agreement`.
        num_examples : float
            The client's number of examples; its rounded logarithm is sent.
        """
        agreement = self._read_terms(request)
        if agreement.label in self.memory:
            raise RefusedError(f"round {agreement.label}: keys were already made")
        self._forget(lambda state: state.server_round < agreement.server_round - 1)
        if len(self._labels()) >= _MOST_ROUNDS:
            raise RefusedError(f"{_MOST_ROUNDS} rounds are under way already")
        profile = agreement.profile
        secret = SecretKey.generate(profile, self.source)
        a = multikey.common_polynomial(profile, agreement.context)
        key = multikey.write_key(profile, secret.public_share(profile, a, self.source))
        nonce, channel = self.source.bytes(32), Channel(self.source.bytes(32))
        committed = transcript.commitment(agreement.context, self.party, key, nonce)
        reply = self._signed_commit(agreement, committed, channel, num_examples)
        self._keep(RoundState(agreement, secret, channel.secret, nonce, key))
        return reply

    def reveal(self, request: Mapping[str, object]) -> Payload:
        """Given all commitments, reveal the key share and seal a seed for every peer."""
        state = self._recall(request, "reveal")
        agreement = state.agreement
        commits = self._read_commits(agreement, request, check=self.guards.own_joint_key)
        state = replace(
            state,
            stage=Stage.REVEALED,
            present=commits.present,
            commitments=commits.commitments,
            channels=commits.channels,
            exponents=commits.exponents,
            view=commits.view,
            seed=self.source.bytes(32),
        )
        sealed = self._seal_for_peers(state)
        self._keep(replace(state, key=b""))
        return {"key": state.key, "nonce": state.nonce, "sealed": sealed}

    def _seal_for_peers(self, state: RoundState) -> list[bytes]:
        agreement = state.agreement
        channel = Channel(state.channel_secret)
        dealt = [b""] * len(state.present)
        if agreement.threshold:
            secret = state.secret.transform(agreement.profile)
            points = [agreement.point(party) for party in state.present]
            shares = threshold.deal(
                agreement.profile, secret, points, agreement.threshold, self.source
            )
            dealt = [threshold.write_secret_share(agreement.profile, share) for share in shares]
        return [
            channel.seal(
                peer_key, self.party, party, state.view, state.seed + text, self.source.bytes(12)
            )
            for party, peer_key, text in zip(state.present, state.channels, dealt, strict=True)
        ]

    def encrypt(
        self,
        request: Mapping[str, object],
        update: Values,
        num_examples: float,
        training: Training,
    ) -> Payload:
        """Given all key shares, encrypt the update under the joint key.

        Parameters
        ----------
        request : mapping
            Parties, their key shares and nonces, and what they sealed for this client.
        update : ndarray
            (D,) the client's delta.
        num_examples : float
            Its weight.
        training : Training
            Which round and model the delta was trained for.
        """
        state = self._recall(request, "encrypt")
        agreement, profile = state.agreement, state.agreement.profile
        members = get_parties(request, "members", state.present)
        if self.party not in members:
            raise RefusedError("this client's key is not in the joint key")
        self.guards.check_size(len(members))
        key = self._joint_key(state, members, request)
        seeds, combined = self._open_sealed(state, members, request)
        limit = weight_limit([state.exponent_of(party) for party in members])
        values = weighted_values(update, num_examples, limit, profile.clip)
        packing = make_packing(agreement.packing, profile, len(members))
        state = replace(
            state,
            stage=Stage.ENCRYPTED,
            members=members,
            seeds=seeds,
            model=training.model,
            combined=combined,
        )
        self._let_go(state, training)
        ciphertext = multikey.encrypt(profile, self.backend, packing, values, key, self.source)
        tag = self._sum_tag(state).tag(ciphertext.c1, self.party)
        return {"ciphertext": ciphertext.to_bytes(profile), "tag": tag}

    def _let_go(self, state: RoundState, training: Training) -> None:
        """Note that the update leaves under this key, and drop every key it could open under.

        Without a threshold no sum opens without this client's answer, so an earlier attempt is
        undone by dropping its key; with one, nothing is undone.
        """
        if self.guards.bound_update:
            agreement, ledger = state.agreement, self.ledger
            once, cohort = bool(agreement.threshold), cohort_digest(state.members)
            ledger.check(training, agreement.server_round, cohort, once=once)
            if once:
                ledger.note(training, cohort, once=True)
            self._forget(
                lambda other: (
                    other.server_round <= agreement.server_round and other.label != agreement.label
                )
            )
        self._keep(state)

    def _sum_tag(self, state: RoundState) -> transcript.SumTag:
        secret = transcript.round_secret(state.view, state.members, state.model, state.seeds)
        return transcript.SumTag(state.agreement.profile.data_ring, secret)

    def _joint_key(
        self, state: RoundState, members: tuple[int, ...], request: Mapping[str, object]
    ) -> JointKey:
        agreement, profile = state.agreement, state.agreement.profile
        a = multikey.common_polynomial(profile, agreement.context)
        if not self.guards.own_joint_key:
            return JointKey(multikey.read_key(profile, get(request, "joint_key", bytes)), a)
        shares = []
        for party, (key, nonce) in zip(
            members, _rows(request, members, ("keys", "nonces")), strict=True
        ):
            expected = state.commitment_of(party)
            if transcript.commitment(agreement.context, party, key, nonce) != expected:
                raise RefusedError(
                    f"the key of client {party} is not the one it committed to", party
                )
            shares.append(multikey.read_key(profile, key))
        return multikey.joint_key(profile, a, shares)

    def _open_sealed(
        self, state: RoundState, members: tuple[int, ...], request: Mapping[str, object]
    ) -> tuple[tuple[bytes, ...], bytes]:
        """Return everyone's seeds and this client's combined key share, if any."""
        profile = state.agreement.profile
        channel = Channel(state.channel_secret)
        seeds, dealt = [], []
        for party, box in zip(members, get_bytes(request, "sealed", len(members)), strict=True):
            peer = state.channel_of(party)
            text = channel.open(peer, party, self.party, state.view, box)
            seeds.append(text[:32])
            try:
                if len(seeds[-1]) != 32:
                    raise ProtocolError("the seed is short")
                if state.agreement.threshold:
                    dealt.append(threshold.read_secret_share(profile, text[32:]))
            except ProtocolError as error:
                raise RefusedError(f"what client {party} sealed: {error}", party) from error
        if not dealt:
            return tuple(seeds), b""
        combined = threshold.combine(profile, dealt)
        return tuple(seeds), threshold.write_secret_share(profile, combined)

    def share(self, request: Mapping[str, object]) -> Payload:
        """Given the sum, check it and answer with a decryption share, once."""
        state = self._recall(request, "share")
        agreement, profile = state.agreement, state.agreement.profile
        contributors = get_parties(request, "contributors", state.members)
        data = get(request, "sum", bytes)
        total = multikey.read_sum(profile, data)
        self.guards.check_size(len(contributors))
        self._check_sum(state, total, contributors, request)
        answered = self._count_answer(state, transcript.digest("sum", data))
        key = self._share_key(state, request)
        self._note_answer(state)
        done = self.guards.one_answer and answered.answers >= agreement.max_answers
        self._keep(answered.wiped() if done else answered)
        if not self.guards.flooding:
            exact = multikey.exact_share(profile, total, key)
            return {"share": wire.write(profile, wire.SUM, list(enumerate(exact)))}
        share = multikey.decryption_share(profile, total, key, self.source)
        return {"share": multikey.write_share(profile, share)}

    def _check_sum(
        self,
        state: RoundState,
        total: Residues,
        contributors: tuple[int, ...],
        request: Mapping[str, object],
    ) -> None:
        if not self.guards.transcript:
            return
        if self.party not in contributors and not state.agreement.threshold:
            raise RefusedError("the sum leaves this client's update out")
        if not self._sum_tag(state).holds(total, get(request, "tag", bytes), contributors):
            if not state.answers:
                self._keep(replace(state, stage=Stage.DISPUTED))
            raise DisputedError("what the server calls the sum is not the sum of the ciphertexts")

    def _count_answer(self, state: RoundState, sum_digest: bytes) -> RoundState:
        """Return the state after one more answer; refuse a second sum or one answer too many."""
        if self.guards.one_answer:
            if state.answers and state.sum_digest != sum_digest:
                raise RefusedError("this key has already answered for another sum")
            if state.answers >= state.agreement.max_answers:
                raise RefusedError(f"this key has already answered {state.answers} times")
        answers = state.answers + 1
        return replace(state, stage=Stage.ENCRYPTED, answers=answers, sum_digest=sum_digest)

    def _note_answer(self, state: RoundState) -> None:
        agreement, ledger = state.agreement, self.ledger
        if self.guards.bound_update and not state.answers and not agreement.threshold:
            ledger.check_round(agreement.server_round)
            training = Training(agreement.server_round, state.model)
            ledger.note(training, cohort_digest(state.members), once=False)

    def dispute(self, request: Mapping[str, object]) -> Payload:
        """Drop the key of a sum that was refused; show the seeds that its tags were made with.

        Only where the sum cannot open without this client: its tags are worth nothing afterwards.
        """
        state = self._recall(request, "dispute")
        if state.agreement.threshold or state.answers:
            raise RefusedError("the sum could be opened without this client")
        self._keep(state.wiped())
        return {"seeds": list(state.seeds)}

    def _share_key(self, state: RoundState, request: Mapping[str, object]) -> Residues:
        agreement, profile = state.agreement, state.agreement.profile
        if not agreement.threshold:
            return state.secret.transform(profile)
        quorum = get_parties(request, "quorum", state.members)
        if len(quorum) != agreement.threshold or self.party not in quorum:
            raise RefusedError(f"a quorum of {len(quorum)}, agreed on {agreement.threshold}")
        return threshold.quorum_key(
            profile,
            threshold.read_secret_share(profile, state.combined),
            [agreement.point(party) for party in quorum],
            agreement.point(self.party),
        )

    def _keep(self, state: RoundState) -> None:
        self.memory[state.agreement.label] = state.to_payload()

    def _recall(self, request: Mapping[str, object], message: str) -> RoundState:
        """Return the state that a message belongs to; raises if it comes out of turn."""
        label = f"{get_count(request, 'round')}.{get_count(request, 'attempt')}"
        if label not in self.memory:
            next_stage(MULTI_KEY, message, Stage.NEW, label)
        state = RoundState.from_payload(self.memory[label])
        next_stage(MULTI_KEY, message, state.stage, label)
        return state

    def _labels(self) -> list[str]:
        return [label for label in self.memory if label != LEDGER]

    def _forget(self, old: Callable[[Agreement], bool]) -> None:
        """Drop the keys of all rounds and attempts whose terms are `old`."""
        for label in self._labels():
            if old(Agreement.from_payload(self.memory[label])):
                del self.memory[label]


def _rows(
    request: Mapping[str, object], parties: tuple[int, ...], names: tuple[str, ...]
) -> list[tuple[bytes, ...]]:
    columns = [get_bytes(request, name, len(parties)) for name in names]
    return list(zip(*columns, strict=True))
