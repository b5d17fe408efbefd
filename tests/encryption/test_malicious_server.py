"""A malicious server of hypothesis' choosing: whatever it sends, clients finish honestly or refuse.

The test keeps book of every sum that could be opened with what clients answered: of which model's
updates, and whose.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice.backend_numpy import NumpyBackend
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.client import ClientSession
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.identity import Identity, Roster
from fedguard.encryption.protocol.ledger import Training
from fedguard.encryption.protocol.server import RoundServer
from fedguard.encryption.protocol.shared_key import SharedKeyClient
from fedguard.encryption.protocol.shared_key_server import SharedKeyServer

PARTIES = (1, 2, 3, 4, 5)
SIZE = 16
COHORTS = st.sets(st.sampled_from(PARTIES), min_size=3).map(lambda found: tuple(sorted(found)))
FEW = st.sets(st.sampled_from(PARTIES), max_size=5).map(lambda found: tuple(sorted(found)))
ROUNDS = st.integers(1, 3)
MODELS = st.sampled_from([b"first model", b"second model", b"third model"])


class Server(RuleBasedStateMachine):
    """Moves of a server against clients of one scheme, and what they have opened so far."""

    def __init__(self) -> None:
        super().__init__()
        source = SystemRandom()
        identities = {party: Identity.generate(source) for party in PARTIES}
        self.roster = Roster({party: key.public for party, key in identities.items()})
        self.clients = {party: self.client(party, key) for party, key in identities.items()}
        self.trained = dict.fromkeys(PARTIES, Training(1, b"first model"))
        self.servers: list = []
        self.opened: list[tuple[bytes, tuple[int, ...]]] = []
        self.update = np.linspace(-0.1, 0.1, SIZE)

    def client(self, party: int, key: Identity):
        raise NotImplementedError

    def new_server(self, agreement: Agreement):
        raise NotImplementedError

    def ask(self, party: int, stage: str, request, *rest):
        """Return a client's reply, or None if it refuses; anything but a refusal is a failure."""
        try:
            return getattr(self.clients[party], stage)(request, *rest)
        except ProtocolError:
            return None

    def replies(self, stage: str, requests, lost: tuple[int, ...], *rest):
        found = {
            party: self.ask(party, stage, request, *rest)
            for party, request in requests.items()
            if party not in lost
        }
        return {party: reply for party, reply in found.items() if reply is not None}

    @rule(model=MODELS, server_round=ROUNDS, parties=FEW)
    def send_a_model(self, model: bytes, server_round: int, parties: tuple[int, ...]) -> None:
        for party in parties:
            self.trained[party] = Training(server_round, model)

    @rule(
        cohort=COHORTS,
        server_round=ROUNDS,
        attempt=st.integers(0, 2),
        threshold=st.sampled_from([0, 0, 3, 4]),
    )
    def exchange_keys(self, cohort, server_round: int, attempt: int, threshold: int) -> None:
        try:
            terms = self.terms(cohort, server_round, attempt, threshold)
            Agreement.from_payload(terms.to_payload())
            server = self.new_server(terms)
            server.take_commits(self.replies("commit", server.commit_requests(), (), 10))
            server.take_reveals(self.replies("reveal", server.reveal_requests(), ()))
        except ProtocolError:
            return
        self.servers = [*self.servers[-3:], server]

    @rule(
        cohort=COHORTS,
        server_round=ROUNDS,
        attempt=st.integers(0, 1),
        threshold=st.sampled_from([0, 3]),
        model=MODELS,
    )
    def play_a_round(self, cohort, server_round, attempt, threshold, model) -> None:
        """Several moves at once, so that sums are opened often."""
        if model != b"first model":
            self.send_a_model(model, server_round, cohort)
        self.exchange_keys(cohort, server_round, attempt, threshold)
        if self.servers:
            self.finish(len(self.servers) - 1, server_round)

    def finish(self, which: int, server_round: int) -> None:
        raise NotImplementedError

    def terms(self, cohort, server_round: int, attempt: int, threshold: int) -> Agreement:
        return Agreement(server_round, attempt, cohort, "default", "coefficients", threshold)

    def encrypt(self, server, requests, lost: tuple[int, ...]) -> None:
        replies = {}
        for party, request in requests.items():
            if party not in lost:
                training = self.trained[party]
                reply = self.ask(party, "encrypt", request, self.update, 10, training)
                if reply is not None:
                    replies[party] = reply
        server.take_ciphertexts(replies)

    @invariant()
    def no_two_openings_differ_by_one_participant(self) -> None:
        for index, (model, first) in enumerate(self.opened):
            for other, second in self.opened[index + 1 :]:
                if model == other:
                    assert len(set(first) ^ set(second)) != 1, (first, second)


class MultiKeyServer(Server):
    """Against `ClientSession`."""

    def client(self, party: int, key: Identity) -> ClientSession:
        return ClientSession(party, key, self.roster, NumpyBackend(), SystemRandom(), {})

    def new_server(self, agreement: Agreement) -> RoundServer:
        return RoundServer(agreement, SIZE)

    @precondition(lambda self: self.servers)
    @rule(which=st.integers(0, 3), lost=FEW)
    def collect(self, which: int, lost: tuple[int, ...]) -> None:
        server = self.servers[which % len(self.servers)]
        try:
            self.encrypt(server, server.encrypt_requests(), lost)
        except ProtocolError:
            return

    @precondition(lambda self: self.servers)
    @rule(which=st.integers(0, 3), alive=FEW, without=st.sampled_from([None, *PARTIES]))
    def open(self, which: int, alive: tuple[int, ...], without: int | None) -> None:
        server = self.servers[which % len(self.servers)]
        if without not in server.contributors:
            without = None
        try:
            asked = server.share_requests(alive or None, without=without)
        except ProtocolError:
            return
        replies = self.replies("share", asked, ())
        if set(replies) == set(asked):
            request = next(iter(asked.values()))
            models = {self.models_of(server)[p] for p in request["contributors"]}
            assert len(models) == 1, "one model per opened sum"
            self.opened.append((models.pop(), tuple(request["contributors"])))

    def finish(self, which: int, server_round: int) -> None:
        self.collect(which, ())
        self.open(which, (), None)

    def models_of(self, server: RoundServer) -> dict[int, bytes]:
        label = server.agreement.label
        return {
            party: client.memory[label]["model"]
            for party, client in self.clients.items()
            if label in client.memory
        }

    @precondition(lambda self: self.servers)
    @rule(which=st.integers(0, 3))
    def dispute(self, which: int) -> None:
        server = self.servers[which % len(self.servers)]
        for party, request in server.dispute_requests().items():
            self.ask(party, "dispute", request)

    @rule(which=st.integers(0, 3), stage=st.sampled_from(["reveal", "encrypt", "share"]))
    def repeat_a_message(self, which: int, stage: str) -> None:
        """Whatever was asked for is asked for again; nothing is answered twice but a share."""
        if not self.servers:
            return
        server = self.servers[which % len(self.servers)]
        try:
            requests = getattr(server, f"{stage}_requests")()
        except ProtocolError:
            return
        for party, request in requests.items():
            rest = (self.update, 10, self.trained[party]) if stage == "encrypt" else ()
            first = self.ask(party, stage, request, *rest) if stage != "share" else None
            again = self.ask(party, stage, request, *rest) if stage != "share" else None
            assert first is None or again is None


class OneKeyServer(Server):
    """Against `SharedKeyClient`."""

    def client(self, party: int, key: Identity) -> SharedKeyClient:
        return SharedKeyClient(party, key, self.roster, SystemRandom(), {})

    def new_server(self, agreement: Agreement) -> SharedKeyServer:
        return SharedKeyServer(agreement, SIZE)

    def terms(self, cohort, server_round: int, attempt: int, threshold: int) -> Agreement:
        return Agreement(server_round, attempt, cohort, "default", "slots")

    @precondition(lambda self: self.servers)
    @rule(which=st.integers(0, 3), lost=FEW, server_round=ROUNDS)
    def collect(self, which: int, lost: tuple[int, ...], server_round: int) -> None:
        server = self.servers[which % len(self.servers)]
        server.begin(server_round)
        self.encrypt(server, server.encrypt_requests(), lost)

    def finish(self, which: int, server_round: int) -> None:
        self.collect(which, (), server_round)
        self.open(which, None, ())

    @precondition(lambda self: self.servers)
    @rule(which=st.integers(0, 3), without=st.sampled_from([None, *PARTIES]), first=FEW)
    def open(self, which: int, without: int | None, first: tuple[int, ...]) -> None:
        """Ask some to confirm one list, the others another, and everybody to open."""
        server = self.servers[which % len(self.servers)]
        if without not in server.contributors:
            without = None
        lists = [server.contributors, tuple(p for p in server.contributors if p != without)]
        signatures: list[dict[int, bytes]] = [{}, {}]
        for party in server.contributors:
            index = 0 if party in first else 1
            request = {"round": server.server_round, "contributors": list(lists[index])}
            reply = self.ask(party, "confirm", request)
            if reply is not None:
                signatures[index][party] = reply["signature"]
        for index, contributors in enumerate(lists):
            if not contributors:
                continue
            request = server._sum_request(without if index else None)
            request["signers"] = sorted(signatures[index])
            request["signatures"] = [signatures[index][p] for p in request["signers"]]
            for party in contributors:
                if self.ask(party, "share", request) is not None:
                    model = self.clients[party].memory["key"]["model"]
                    self.opened.append((model, contributors))


def bounded(examples: int, steps: int = 8, phases=tuple(Phase)) -> settings:
    """Return settings without a deadline; sequences of `steps` moves, `examples` of them."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=phases,
        derandomize=True,
    )


def test_no_moves_against_clients_with_keys_of_their_own_open_one_update():
    run_state_machine_as_test(MultiKeyServer, settings=bounded(40))


def test_no_moves_against_clients_that_share_a_key_open_one_update():
    pytest.importorskip("tenseal")
    run_state_machine_as_test(OneKeyServer, settings=bounded(15))


@pytest.mark.slow
@pytest.mark.parametrize("machine", [MultiKeyServer, OneKeyServer])
def test_a_thousand_sequences_open_nothing(machine):
    pytest.importorskip("tenseal")
    run_state_machine_as_test(machine, settings=bounded(1000, 14))


class Careless(MultiKeyServer):
    """The same moves against clients that do not remember what they let go of."""

    def client(self, party: int, key: Identity) -> ClientSession:
        guards = Guards(bound_update=False)
        return ClientSession(party, key, self.roster, NumpyBackend(), SystemRandom(), {}, guards)


def test_the_moves_would_open_one_update_of_careless_clients():
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Careless, settings=bounded(200, phases=(Phase.generate,)))
