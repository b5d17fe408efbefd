"""A small cohort of clients that share a key, and a server object that an attack can make lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedguard.encryption.attacks.cohort import CLIENTS, EXAMPLES, SIZE
from fedguard.encryption.lattice.packing import Values
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.agreement import Agreement, Payload
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.identity import Identity, Roster
from fedguard.encryption.protocol.ledger import Training
from fedguard.encryption.protocol.shared_key import SharedKeyClient
from fedguard.encryption.protocol.shared_key_server import SharedKeyServer
from fedguard.randomness import SERVER, numpy_generator


@dataclass
class SharedCohort:
    """Clients of plain CKKS, with the updates that an attacker is after.

    Attributes
    ----------
    clients : dict
        Party to client.
    updates : dict
        Party to its (SIZE,) update.
    server : SharedKeyServer
        Server of the round.
    """

    clients: dict[int, SharedKeyClient]
    updates: dict[int, Values]
    server: SharedKeyServer

    @classmethod
    def make(cls, guards: Guards) -> SharedCohort:
        """Return a cohort that has agreed on its key."""
        source = SystemRandom()
        parties = tuple(range(1, CLIENTS + 1))
        identities = {party: Identity.generate(source) for party in parties}
        roster = Roster({party: key.public for party, key in identities.items()})
        clients = {
            party: SharedKeyClient(party, key, roster, source, {}, guards)
            for party, key in identities.items()
        }
        stream = numpy_generator(0, 1, SERVER, "attacked updates")
        updates = {party: stream.normal(0.0, 0.05, SIZE) for party in parties}
        server = SharedKeyServer(Agreement(1, 0, parties, "default", "slots"), SIZE)
        commits = server.commit_requests()
        server.take_commits({p: clients[p].commit(r, EXAMPLES) for p, r in commits.items()})
        reveals = server.reveal_requests()
        server.take_reveals({p: clients[p].reveal(r) for p, r in reveals.items()})
        return cls(clients, updates, server)

    def encrypt(self, party: int) -> Payload:
        """Return a client's encrypted update, asked for as the honest server does."""
        request = self.server.encrypt_requests()[party]
        training = Training(self.server.server_round, b"a model")
        return self.clients[party].encrypt(request, self.updates[party], EXAMPLES, training)

    def encrypt_all(self) -> dict[int, Payload]:
        """Return everybody's; the server has added them up."""
        replies = {party: self.encrypt(party) for party in self.clients}
        self.server.take_ciphertexts(replies)
        return replies

    def confirm(self) -> int:
        """Have the list of contributors confirmed; return the opener."""
        requests = self.server.confirm_requests()
        signed = {p: self.clients[p].confirm(r) for p, r in requests.items()}
        return self.server.take_confirmations(signed)[0]


def values_of(reply: Payload) -> Values:
    """Return the (SIZE,) values that an opener released."""
    data = reply["values"]
    assert isinstance(data, bytes)
    return np.frombuffer(data, dtype="<f8")[:SIZE]
