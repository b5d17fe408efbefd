"""`CohortClient`: what a client of either scheme does: check the terms, learn who takes part."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from fedguard.encryption.errors import ProtocolError, RefusedError
from fedguard.encryption.lattice.sampling import RandomSource
from fedguard.encryption.protocol.agreement import (
    Agreement,
    Payload,
    get_bytes,
    get_exponents,
    get_parties,
)
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.identity import Channel, Identity, Roster
from fedguard.encryption.protocol.ledger import Ledger
from fedguard.encryption.protocol.weights import exponent_of

_COLUMNS = ("commitments", "channels", "signatures", "publics")


@dataclass(frozen=True)
class Commits:
    """Everyone's commitments of stage 1, checked, in the order of `present`."""

    present: tuple[int, ...]
    commitments: tuple[bytes, ...]
    channels: tuple[bytes, ...]
    exponents: tuple[int, ...]
    view: bytes


class CohortClient:
    """One client across the rounds of a run; see `ClientSession` and `SharedKeyClient`.

    Parameters
    ----------
    party : int
        The client's id, its node id in Flower.
    identity : Identity
        Its signing key.
    roster : Roster
        The other clients' public keys.
    source : RandomSource
        Secret randomness.
    memory : MutableMapping
        Label to the state of a round that is under way; must stay on the client.
    guards : Guards
        What it insists on.
    run : bytes
        Names the run that is under way.
    """

    def __init__(
        self,
        party: int,
        identity: Identity,
        roster: Roster,
        source: RandomSource,
        memory: MutableMapping[str, Payload],
        guards: Guards | None = None,
        run: bytes = b"",
    ) -> None:
        self.party = party
        self.identity = identity
        self.roster = roster
        self.source = source
        self.memory = memory
        self.guards = guards or Guards()
        self.run = run

    @property
    def ledger(self) -> Ledger:
        """Which trainings may have been opened already."""
        return Ledger(self.memory, self.run)

    def check(self, request: Mapping[str, object]) -> Payload:
        """Refuse: only clients that share a key check a sum before it is opened."""
        raise RefusedError("this client's scheme has nothing to check")

    def confirm(self, request: Mapping[str, object]) -> Payload:
        """Refuse: only clients that share a key confirm what is in a sum."""
        raise RefusedError("this client's scheme has nothing to confirm")

    def dispute(self, request: Mapping[str, object]) -> Payload:
        """Refuse: only clients with keys of their own can drop them."""
        raise RefusedError("this client's scheme has nothing to dispute")

    def _read_terms(self, request: Mapping[str, object]) -> Agreement:
        agreement = Agreement.from_payload(request)
        if self.party not in agreement.cohort:
            raise RefusedError("this client is not in the cohort")
        self.guards.check_terms(agreement)
        if self.guards.bound_update:
            self.ledger.check_round(agreement.server_round)
        return agreement

    def _signed_commit(
        self, agreement: Agreement, commitment: bytes, channel: Channel, num_examples: float
    ) -> Payload:
        reply: Payload = {
            "commitment": commitment,
            "channel": channel.public,
            "exponent": exponent_of(num_examples),
            "public": self.identity.public,
        }
        reply["signature"] = self.identity.sign(agreement.commit_statement(self.party, reply))
        return reply

    def _read_commits(
        self, agreement: Agreement, request: Mapping[str, object], *, check: bool = True
    ) -> Commits:
        """Return who takes part, every signature checked against the roster."""
        present = get_parties(request, "present", agreement.cohort)
        columns = [get_bytes(request, name, len(present)) for name in _COLUMNS]
        exponents = get_exponents(request, "exponents")
        if len(exponents) != len(present) or self.party not in present:
            raise ProtocolError("the list of commitments is incomplete")
        self.guards.check_size(len(present))
        statements = []
        for party, commitment, channel, signature, public, exponent in zip(
            present, *columns, exponents, strict=True
        ):
            row = {"commitment": commitment, "channel": channel, "exponent": exponent}
            statements.append(agreement.commit_statement(party, row))
            if check:
                self.roster.learn(party, public)
                self.roster.verify(party, statements[-1], signature)
        commitments, channels = (tuple(column) for column in columns[:2])
        view = agreement.view(present, statements)
        return Commits(present, commitments, channels, exponents, view)
