"""`ClientSession`: one client's side of the protocol, with its guards.

A round has four stages, each one request of the server and one reply:

1. ``commit``   draw fresh keys; send a signed commitment to the public key share
2. ``reveal``   given everyone's commitments, send the share, and each peer a sealed seed
3. ``encrypt``  given everyone's shares, check them, add them up, encrypt the update under the sum
4. ``share``    given the sum of ciphertexts, check it, answer once with a flooded share

Stages 1 and 2 of the next round travel with 3 and 4 of this one.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace

from fedguard.encryption.errors import ProtocolError, RefusedError
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
    get_parties,
)
from fedguard.encryption.protocol.identity import Channel, Identity, Roster
from fedguard.encryption.protocol.state import RoundState
from fedguard.encryption.protocol.weights import exponent_of, weight_limit, weighted_values

MINIMUM_PARTICIPANTS = 3
"""With two, each learns the other's update from the mean."""

_COMMIT_COLUMNS = ("commitments", "channels", "signatures", "publics")


@dataclass(frozen=True)
class Guards:
    """What a client insists on. All on unless an experiment shows what each one prevents.

    Parameters
    ----------
    own_joint_key : bool
        Add up the public key shares oneself, each checked against its commitment and signature,
        instead of taking the server's sum.
    minimum_participants : int
        Smallest cohort to encrypt for, and smallest sum to answer for.
    one_answer : bool
        Answer for one sum per key and for one key per round.
    transcript : bool
        Answer only for the sum of what the contributors tagged.
    flooding : bool
        Add flooding to shares and round them.
    """

    own_joint_key: bool = True
    minimum_participants: int = MINIMUM_PARTICIPANTS
    one_answer: bool = True
    transcript: bool = True
    flooding: bool = True

    @classmethod
    def none(cls) -> Guards:
        """Return the naive mode: insecure, for demonstrations."""
        return cls(False, 1, False, False, False)


class ClientSession:
    """One client across the rounds of a run.

    Parameters
    ----------
    party : int
        The client's id, its node id in Flower.
    identity : Identity
        Its signing key.
    roster : Roster
        The other clients' public keys.
    backend : Backend
        Encrypts.
    source : RandomSource
        Secret randomness.
    memory : MutableMapping
        Label to the state of a round that is under way; must stay on the client.
    guards : Guards
        What it insists on.
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
    ) -> None:
        self.party = party
        self.identity = identity
        self.roster = roster
        self.backend = backend
        self.source = source
        self.memory = memory
        self.guards = guards or Guards()

    def commit(self, request: Mapping[str, object], num_examples: float) -> Payload:
        """Draw fresh keys and commit to them.

        Parameters
        ----------
        request : mapping
            The terms; see `Agreement`.
        num_examples : float
            The client's number of examples; its rounded logarithm is sent.
        """
        agreement = Agreement.from_payload(request)
        self._check_terms(agreement)
        profile = agreement.profile
        secret = SecretKey.generate(profile, self.source)
        a = multikey.common_polynomial(profile, agreement.context)
        key = multikey.write_key(profile, secret.public_share(profile, a, self.source))
        nonce, channel = self.source.bytes(32), Channel(self.source.bytes(32))
        reply: Payload = {
            "commitment": transcript.commitment(agreement.context, self.party, key, nonce),
            "channel": channel.public,
            "exponent": exponent_of(num_examples),
            "public": self.identity.public,
        }
        reply["signature"] = self.identity.sign(agreement.commit_statement(self.party, reply))
        self._forget_before(agreement)
        self._keep(RoundState(agreement, secret, channel.secret, nonce, key))
        return reply

    def _check_terms(self, agreement: Agreement) -> None:
        if self.party not in agreement.cohort:
            raise RefusedError("this client is not in the cohort")
        if agreement.threshold and agreement.threshold < self.guards.minimum_participants:
            raise RefusedError(f"a threshold of {agreement.threshold} lets so few clients decrypt")
        self._check_size(len(agreement.cohort))
        if self.guards.one_answer and agreement.server_round <= self._answered_round():
            raise RefusedError(
                f"round {agreement.server_round}: this client has already answered for a round "
                "at least as late"
            )
        if agreement.label in self.memory:
            raise RefusedError(f"round {agreement.label}: keys were already made")

    def _check_size(self, participants: int) -> None:
        if participants < self.guards.minimum_participants:
            raise RefusedError(
                f"{participants} participants, this client wants at least "
                f"{self.guards.minimum_participants}"
            )

    def reveal(self, request: Mapping[str, object]) -> Payload:
        """Given all commitments, reveal the key share and seal a seed for every peer."""
        state = self._recall(request, stage=RoundState.COMMITTED)
        agreement = state.agreement
        present = get_parties(request, "present", agreement.cohort)
        commits = _rows(request, present, _COMMIT_COLUMNS)
        exponents = get(request, "exponents", list)
        if len(exponents) != len(present) or self.party not in present:
            raise ProtocolError("the list of commitments is incomplete")
        statements = []
        for party, (commitment, channel, signature, public), exponent in zip(
            present, commits, exponents, strict=True
        ):
            row = {"commitment": commitment, "channel": channel, "exponent": exponent}
            statement = agreement.commit_statement(party, row)
            if self.guards.own_joint_key:
                self.roster.learn(party, public)
                self.roster.verify(party, statement, signature)
            statements.append(statement)
        self._check_size(len(present))
        state = replace(
            state,
            stage=RoundState.REVEALED,
            present=present,
            commitments=tuple(row[0] for row in commits),
            channels=tuple(row[1] for row in commits),
            exponents=tuple(int(value) for value in exponents),
            view=agreement.view(present, statements),
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
            channel.seal(peer_key, self.party, party, state.view, state.seed + text)
            for party, peer_key, text in zip(state.present, state.channels, dealt, strict=True)
        ]

    def encrypt(
        self, request: Mapping[str, object], update: Values, num_examples: float
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
        """
        state = self._recall(request, stage=RoundState.REVEALED)
        agreement, profile = state.agreement, state.agreement.profile
        members = get_parties(request, "members", state.present)
        if self.party not in members:
            raise RefusedError("this client's key is not in the joint key")
        self._check_size(len(members))
        key = self._joint_key(state, members, request)
        secret, combined = self._open_sealed(state, members, request)
        limit = weight_limit([state.exponent_of(party) for party in members])
        values = weighted_values(update, num_examples, limit, profile.clip)
        packing = make_packing(agreement.packing, profile, len(members))
        ciphertext = multikey.encrypt(profile, self.backend, packing, values, key, self.source)
        tag = transcript.SumTag(profile.data_ring, secret).tag(ciphertext.c1, self.party)
        self._keep(
            replace(
                state,
                stage=RoundState.ENCRYPTED,
                members=members,
                group_secret=secret,
                combined=combined,
            )
        )
        return {"ciphertext": ciphertext.to_bytes(profile), "tag": tag}

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
                raise RefusedError(f"the key of client {party} is not the one it committed to")
            shares.append(multikey.read_key(profile, key))
        return multikey.joint_key(profile, a, shares)

    def _open_sealed(
        self, state: RoundState, members: tuple[int, ...], request: Mapping[str, object]
    ) -> tuple[bytes, bytes]:
        """Return the clients' common secret and this client's combined key share, if any."""
        profile = state.agreement.profile
        channel = Channel(state.channel_secret)
        seeds, dealt = [], []
        for party, box in zip(members, get_bytes(request, "sealed", len(members)), strict=True):
            peer = state.channel_of(party)
            text = channel.open(peer, party, self.party, state.view, box)
            seeds.append(text[:32])
            if state.agreement.threshold:
                dealt.append(threshold.read_secret_share(profile, text[32:]))
        view = transcript.digest("members", state.view, repr(members).encode())
        secret = transcript.group_secret(view, seeds)
        if not dealt:
            return secret, b""
        return secret, threshold.write_secret_share(profile, threshold.combine(profile, dealt))

    def share(self, request: Mapping[str, object]) -> Payload:
        """Given the sum, check it and answer with a decryption share, once."""
        state = self._recall(request, stage=RoundState.ENCRYPTED)
        agreement, profile = state.agreement, state.agreement.profile
        contributors = get_parties(request, "contributors", state.members)
        data = get(request, "sum", bytes)
        total = multikey.read_sum(profile, data)
        self._check_size(len(contributors))
        self._check_sum(state, total, contributors, request)
        answered = self._count_answer(state, transcript.digest("sum", data))
        key = self._share_key(state, request)
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
        tag = transcript.SumTag(state.agreement.profile.data_ring, state.group_secret)
        if not tag.holds(total, get(request, "tag", bytes), contributors):
            raise RefusedError("what the server calls the sum is not the sum of the ciphertexts")

    def _count_answer(self, state: RoundState, sum_digest: bytes) -> RoundState:
        """Return the state after one more answer; refuse a second sum or one answer too many."""
        if self.guards.one_answer:
            if state.answers and state.sum_digest != sum_digest:
                raise RefusedError("this key has already answered for another sum")
            if state.answers >= state.agreement.max_answers:
                raise RefusedError(f"this key has already answered {state.answers} times")
            if not state.answers and state.agreement.server_round <= self._answered_round():
                raise RefusedError("another sum of this round was already answered")
        return replace(state, answers=state.answers + 1, sum_digest=sum_digest)

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

    def _recall(self, request: Mapping[str, object], stage: int) -> RoundState:
        label = f"{get(request, 'round', int)}.{get(request, 'attempt', int)}"
        if label not in self.memory:
            raise RefusedError(f"round {label}: this client has no key for it")
        state = RoundState.from_payload(self.memory[label])
        if state.stage == RoundState.ANSWERED:
            raise RefusedError(f"round {label}: this client has answered and dropped its key")
        if state.stage != stage:
            raise RefusedError(f"round {label}: asked for a stage out of turn")
        return state

    def _answered_round(self) -> int:
        answered = [
            int(label.split(".")[0])
            for label, payload in self.memory.items()
            if get(payload, "answers", int) > 0
        ]
        return max(answered, default=-1)

    def _forget_before(self, agreement: Agreement) -> None:
        """Drop the keys of rounds before the last one, but remember the last that was answered."""
        answered = self._answered_round()
        for label in list(self.memory):
            server_round = int(label.split(".")[0])
            if server_round < agreement.server_round - 1 and server_round != answered:
                del self.memory[label]


def _rows(
    request: Mapping[str, object], parties: tuple[int, ...], names: tuple[str, ...]
) -> list[tuple[bytes, ...]]:
    columns = [get_bytes(request, name, len(parties)) for name in names]
    return list(zip(*columns, strict=True))
