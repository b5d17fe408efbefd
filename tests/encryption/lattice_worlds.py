"""Small cohorts and slow references shared by the tests of encrypted aggregation."""

from __future__ import annotations

import numpy as np

from fedguard.encryption.lattice.backend_numpy import NumpyBackend
from fedguard.encryption.lattice.sampling import InsecureSeededRandom, SystemRandom
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.client import ClientSession
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.identity import Identity, Roster
from fedguard.encryption.protocol.ledger import Training
from fedguard.encryption.protocol.server import RoundServer


def schoolbook(a: list[int], b: list[int], modulus: int) -> list[int]:
    """Return a b modulo X^N + 1, by the definition."""
    degree = len(a)
    out = [0] * degree
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            sign = 1 if i + j < degree else -1
            out[(i + j) % degree] += sign * x * y
    return [value % modulus for value in out]


class World:
    """Clients of one cohort and the server of one round."""

    def __init__(
        self,
        clients: int = 5,
        size: int = 300,
        *,
        threshold: int = 0,
        backend=None,
        guards: Guards | None = None,
        profile: str = "default",
        packing: str = "coefficients",
        server_round: int = 1,
        seeded: bool = False,
        sizes: list[int] | None = None,
    ) -> None:
        self.parties = tuple(100 + 7 * index for index in range(clients))
        sources = {
            party: InsecureSeededRandom(0, str(party)) if seeded else SystemRandom()
            for party in self.parties
        }
        identities = {party: Identity.generate(sources[party]) for party in self.parties}
        self.roster = Roster({party: key.public for party, key in identities.items()})
        self.sessions = {
            party: ClientSession(
                party, key, self.roster, backend or NumpyBackend(), sources[party], {}, guards
            )
            for party, key in identities.items()
        }
        rng = np.random.default_rng(7)
        self.updates = {party: rng.normal(0, 0.05, size) for party in self.parties}
        self.examples = dict(zip(self.parties, sizes or [100] * clients, strict=True))
        self.size = size
        self.profile_name, self.packing, self.threshold = profile, packing, threshold
        self.server = self.new_server(server_round)

    def new_server(self, server_round: int, attempt: int = 0, parties=None) -> RoundServer:
        agreement = Agreement(
            server_round,
            attempt,
            tuple(parties or self.parties),
            self.profile_name,
            self.packing,
            self.threshold,
        )
        self.server = RoundServer(agreement, self.size)
        return self.server

    def commit(self, lost=()):
        requests = self.server.commit_requests()
        self.server.take_commits(
            {
                p: self.sessions[p].commit(r, self.examples[p])
                for p, r in requests.items()
                if p not in lost
            }
        )

    def reveal(self, lost=()):
        requests = self.server.reveal_requests()
        self.server.take_reveals(
            {p: self.sessions[p].reveal(r) for p, r in requests.items() if p not in lost}
        )

    def encrypt(self, lost=()):
        requests = self.server.encrypt_requests()
        replies = {p: self.encrypt_one(p, r) for p, r in requests.items() if p not in lost}
        self.server.take_ciphertexts(replies)
        return replies

    def encrypt_one(self, party, request):
        session = self.sessions[party]
        return session.encrypt(request, self.updates[party], self.examples[party], self.training)

    @property
    def training(self) -> Training:
        server_round = self.server.agreement.server_round
        return Training(server_round, f"model {server_round}".encode())

    def share(self, alive=None, lost=()):
        asked = self.server.share_requests(alive)
        replies = {p: self.sessions[p].share(r) for p, r in asked.items() if p not in lost}
        return asked, replies

    def run(self):
        self.commit()
        self.reveal()
        self.encrypt()
        return self.server.take_shares(*self.share())

    def weighted_mean(self, parties=None):
        chosen = self.parties if parties is None else parties
        weights = np.array([self.examples[p] for p in chosen], dtype=np.float64)
        rows = np.stack([self.updates[p] for p in chosen])
        return weights @ rows / weights.sum()
