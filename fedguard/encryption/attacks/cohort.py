"""A small cohort of real clients, and a server object that an attack can make lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fedguard.encryption.errors import RefusedError
from fedguard.encryption.lattice.backend_numpy import NumpyBackend
from fedguard.encryption.lattice.packing import Values
from fedguard.encryption.lattice.sampling import RandomSource, SystemRandom
from fedguard.encryption.protocol.agreement import Agreement, Payload
from fedguard.encryption.protocol.client import ClientSession
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.identity import Identity, Roster
from fedguard.encryption.protocol.ledger import Training
from fedguard.encryption.protocol.server import RoundServer
from fedguard.randomness import SERVER, numpy_generator

CLIENTS = 5
SIZE = 4000
"""Parameters of each update: one ciphertext."""
EXAMPLES = 64
"""Examples of each client: weight 1."""


@dataclass
class Cohort:
    """Clients that follow the protocol, with the updates that an attacker is after.

    Attributes
    ----------
    sessions : dict
        Party to client.
    updates : dict
        Party to its (SIZE,) update.
    server : RoundServer
        Server of the round.
    """

    sessions: dict[int, ClientSession]
    updates: dict[int, Values]
    server: RoundServer

    @classmethod
    def make(cls, guards: Guards, clients: int = CLIENTS, size: int = SIZE) -> Cohort:
        """Return a cohort before stage 1."""
        source: RandomSource = SystemRandom()
        parties = tuple(range(1, clients + 1))
        identities = {party: Identity.generate(source) for party in parties}
        roster = Roster({party: key.public for party, key in identities.items()})
        sessions = {
            party: ClientSession(party, key, roster, NumpyBackend(), source, {}, guards)
            for party, key in identities.items()
        }
        stream = numpy_generator(0, 1, SERVER, "attacked updates")
        updates = {party: stream.normal(0.0, 0.05, size) for party in parties}
        agreement = Agreement(1, 0, parties, "default", "coefficients")
        return cls(sessions, updates, RoundServer(agreement, size))

    def exchange_keys(self) -> None:
        """Run stages 1 and 2 honestly."""
        commits = self.server.commit_requests()
        self.server.take_commits(
            {party: self.sessions[party].commit(r, EXAMPLES) for party, r in commits.items()}
        )
        reveals = self.server.reveal_requests()
        self.server.take_reveals({p: self.sessions[p].reveal(r) for p, r in reveals.items()})

    def encrypt(self, requests: Mapping[int, Payload]) -> dict[int, Payload]:
        """Run stage 3 with the given requests."""
        training = Training(self.server.agreement.server_round, b"a model")
        return {
            party: self.sessions[party].encrypt(request, self.updates[party], EXAMPLES, training)
            for party, request in requests.items()
        }

    def encrypt_honestly(self) -> dict[int, Payload]:
        """Run stages 1 to 3; return the ciphertext replies, which the server has added up."""
        self.exchange_keys()
        requests = self.server.encrypt_requests()
        if not next(iter(self.sessions.values())).guards.own_joint_key:
            requests = self.with_joint_key(requests)
        replies = self.encrypt(requests)
        self.server.take_ciphertexts(replies)
        return replies

    def with_joint_key(self, requests: Mapping[int, Payload]) -> dict[int, Payload]:
        """Return stage 3 as naive clients want it: with the sum of keys already made."""
        from fedguard.encryption.lattice import multikey

        profile = self.server.profile
        first = next(iter(requests.values()))
        keys = first["keys"]
        assert isinstance(keys, list)
        shares = [multikey.read_key(profile, key) for key in keys if isinstance(key, bytes)]
        a = multikey.common_polynomial(profile, self.server.agreement.context)
        joint = multikey.write_key(profile, multikey.joint_key(profile, a, shares).b)
        return {party: {**request, "joint_key": joint} for party, request in requests.items()}

    def shares(self, requests: Mapping[int, Payload]) -> dict[int, Payload]:
        """Run stage 4 with the given requests; raises what the first guard raises."""
        return {party: self.sessions[party].share(request) for party, request in requests.items()}


def error_of(found: Values, truth: Values) -> float:
    """Return the largest absolute difference."""
    return float(np.abs(found - truth).max())


def refusal_of(action: Callable[[], object]) -> str:
    """Return why a client refused, or an empty string if none did."""
    try:
        action()
    except RefusedError as error:
        return f"refused: {error}"
    return ""
