"""A registrar as a process of its own, an aggregator and members, over TLS; no Flower in it."""

from __future__ import annotations

import importlib.util
import json
import secrets
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)

from fedguard.enrolment import reasons
from fedguard.enrolment.aggregator import Aggregator
from fedguard.enrolment.digests import content_digest
from fedguard.enrolment.files import read_credential
from fedguard.enrolment.intake import INSTRUCTION, IntakeGrid
from fedguard.enrolment.member import Member
from fedguard.enrolment.mod import enrolment_mod, hand_in
from fedguard.enrolment.reasons import NotAdmittedError
from fedguard.enrolment.relay import Relay
from fedguard.enrolment.service import RemoteRegistrar
from fedguard.enrolment.tickets import Place, aggregator_id
from fedguard.enrolment.wire import ask, client_context
from fedguard.grids.base import LocalGrid

ROOT = Path(__file__).resolve().parents[2]
NAME = aggregator_id("aggregator")
MEMBERS = 6


def certificates():
    spec = importlib.util.spec_from_file_location("certificates", ROOT / "docker/certificates.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedguard.enrolment", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("federation")
    made = certificates()
    made.make_tls(found, ["127.0.0.1"])
    made.make_registrar_tls(found, "127.0.0.1")
    done = command("members", found, "--members", MEMBERS, "--k", 3)
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture(scope="module")
def registrar(folder):
    """The address of a registrar that runs in a process of its own."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "fedguard.enrolment",
            "registrar",
            folder,
            "--listen",
            "127.0.0.1:0",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    yield f"127.0.0.1:{line.split()[-1]}"
    process.terminate()
    assert process.wait(timeout=30) == 0


@pytest.fixture
def remote(folder, registrar) -> RemoteRegistrar:
    own = folder / "aggregator" / "client.pem", folder / "aggregator" / "client.key"
    return RemoteRegistrar(registrar, client_context(folder / "public" / "ca.crt", own))


@pytest.fixture
def aggregator(folder, remote) -> Aggregator:
    return Aggregator(NAME, bytes.fromhex((folder / "aggregator/seal.key").read_text()), remote)


rounds = iter(range(1, 100))


@pytest.fixture
def place() -> Place:
    """A round that no other test has opened."""
    return Place(next(rounds))


def member(folder: Path, number: int, place: Place) -> Member:
    credential = read_credential(folder / "members" / f"{number}.json")
    return Member(credential, lambda: place.server_round, secrets.token_bytes)


def refused(attempt) -> str:
    with pytest.raises(NotAdmittedError) as caught:
        attempt()
    return caught.value.reason


def update(value: float) -> RecordDict:
    array = Array(np.full(4, value, dtype=np.float32))
    metrics = MetricRecord({"num-examples": 10})
    return RecordDict({"arrays": ArrayRecord({"w": array}), "metrics": metrics})


def test_members_are_admitted_once_and_the_registrar_traces_them_and_logs_it(
    folder, aggregator, place
):
    aggregator.open(place)
    handles = {}
    for number in range(MEMBERS):
        who = member(folder, number, place)
        ticket = who.ticket(NAME, place, bytes(32))
        handle, receipt = aggregator.receive(place, ticket, bytes(32))
        assert who.accepts(receipt)
        handles[number] = handle
        assert refused(lambda t=ticket: aggregator.receive(place, t, bytes(32))) == reasons.REPLAYED
    assert len(set(handles.values())) == MEMBERS
    told = ["trace", folder, "--handle", handles[4].hex(), "--round", place.server_round]
    done = command(*told, "--why", "an update of norm 1e9")
    assert (done.returncode, done.stdout.strip()) == (0, "member 4")
    log = (folder / "registrar/log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["why"] == "an update of norm 1e9"
    assert command(*told[:-1], 99, "--why", "x").returncode == 1
    assert command(*told).returncode == 2
    assert command("trace", folder, "--handle", "ab", "--round", 1, "--why", "x").returncode == 2


def test_whoever_shows_no_certificate_of_the_aggregator_gets_no_answer(folder, registrar, remote):
    remote.ready()
    nobody = client_context(folder / "public" / "ca.crt")
    assert refused(lambda: ask(registrar, nobody, "/ready", b"")) == reasons.NO_ANSWER
    server = folder / "superlink" / "server.pem", folder / "superlink" / "server.key"
    wrong = client_context(folder / "public" / "ca.crt", server)
    assert refused(lambda: ask(registrar, wrong, "/ready", b"")) == reasons.NO_ANSWER
    for path, body in (("/access", b""), ("/access", bytes(134)), ("/trace", bytes(134))):
        with pytest.raises(NotAdmittedError):
            ask(registrar, remote.context, path, body)
    too_long = bytes(10_000)
    assert refused(lambda: ask(registrar, remote.context, "/access", too_long)) in (
        reasons.MALFORMED,
        reasons.NO_ANSWER,
    )
    with socket.create_connection(("127.0.0.1", int(registrar.split(":")[1]))) as rude:
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
    remote.ready()


def test_who_does_not_speak_for_the_authority_is_not_believed(registrar, folder, tmp_path):
    made = certificates()
    made.make_tls(tmp_path, ["127.0.0.1"])
    own = folder / "aggregator" / "client.pem", folder / "aggregator" / "client.key"
    stranger = client_context(tmp_path / "public" / "ca.crt", own)
    assert refused(lambda: ask(registrar, stranger, "/ready", b"")) == reasons.NO_ANSWER
    assert stranger.minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_member_that_is_revoked_is_out_while_the_process_runs(folder, aggregator, place):
    aggregator.open(place)
    out, other = member(folder, 5, place), member(folder, 2, place)
    assert aggregator.receive(place, out.ticket(NAME, place, bytes(32)), bytes(32))
    assert command("revoke", folder, "--member", 77, "--why", "test").returncode == 2
    done = command("revoke", folder, "--member", 5, "--why", "test")
    assert done.returncode == 0, done.stderr
    following = Place(next(rounds))
    aggregator.open(following)
    for who, why in ((out, reasons.REVOKED), (other, None)):
        who.clock = lambda: following.server_round
        ticket = who.ticket(NAME, following, bytes(32))
        if why:
            told = refused(lambda t=ticket: aggregator.receive(following, t, bytes(32)))
            assert told == why
        else:
            assert aggregator.receive(following, ticket, bytes(32))
    (folder / "registrar/revoked").unlink()


class Clients(LocalGrid):
    """Flower's part of a deployment: every node runs the mod; `names` stay with the nodes."""

    def __init__(self, folder: Path, train, nodes=range(MEMBERS), bare=()) -> None:
        super().__init__()
        self.folder, self.train, self.nodes, self.bare = folder, train, nodes, set(bare)

    def get_node_ids(self):
        return self.nodes

    def send_and_receive(self, messages, *, timeout=None):
        found = []
        for message in messages:
            node = message.metadata.dst_node_id
            told = {
                "fedguard-credential": str(self.folder / "members" / f"{node}.json"),
                "fedguard-authority": str(self.folder / "public" / "ca.crt"),
            }
            context = type("Context", (), {"node_config": {} if node in self.bare else told})()
            found.append(enrolment_mod(message, context, self.train))
        self.seen = found
        return found


@pytest.fixture
def still(monkeypatch):
    """Nobody waits for a moment of its own choice."""
    monkeypatch.setattr("fedguard.enrolment.intake.SPREAD", 0.0)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def door(folder: Path, clients: LocalGrid, aggregator: Aggregator, through: int = 0) -> IntakeGrid:
    port = free_port()
    server = folder / "superlink" / "server.pem", folder / "superlink" / "server.key"
    address = f"127.0.0.1:{through or port}"
    return IntakeGrid(clients, aggregator, address, server, ("127.0.0.1", port))


def questions(place: Place, kind: str = MessageType.TRAIN) -> list[Message]:
    config = ConfigRecord({"server-round": place.server_round})
    return [
        Message(
            RecordDict({"arrays": update(0.0)["arrays"], "config": config}),
            dst_node_id=node,
            message_type=kind,
        )
        for node in range(MEMBERS)
    ]


def answers(message: Message, _) -> Message:
    return Message(update(float(message.metadata.dst_node_id)), reply_to=message)


def values(replies) -> list[float]:
    return [float(r.content["arrays"]["w"].numpy()[0]) for r in replies if not r.has_error()]


def test_updates_come_in_under_handles_and_acknowledgements_say_nothing(
    folder, aggregator, place, still
):
    clients = Clients(folder, answers)
    grid = door(folder, clients, aggregator)
    replies = list(grid.send_and_receive(questions(place)))
    assert sorted(values(replies)) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert [reply.metadata.src_node_id for reply in replies] == list(range(MEMBERS))
    handles = [grid.handles[seat, place.server_round] for seat in range(MEMBERS)]
    assert handles == sorted(handles)
    told = {str(dict(reply.content)) for reply in clients.seen}
    assert len(told) == 1
    assert list(clients.seen[0].content) == [INSTRUCTION]
    following = Place(next(rounds))
    again = list(grid.send_and_receive(questions(following)))
    assert sorted(values(again)) == sorted(values(replies))
    assert not set(handles) & {
        grid.handles[seat, following.server_round] for seat in range(MEMBERS)
    }


def test_a_relay_stands_between_clients_and_the_door(folder, aggregator, place, still):
    clients = Clients(folder, answers)
    grid = door(folder, clients, aggregator, through=(port := free_port()))
    import threading

    with Relay(("127.0.0.1", port), grid.listen) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        replies = list(grid.send_and_receive(questions(place)))
        relay.shutdown()
    assert sorted(values(replies)) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_an_update_under_a_name_is_not_admitted_and_a_named_client_does_not_send_one(
    folder, aggregator, place, still
):
    grid = door(folder, Clients(folder, answers, bare=[1, 4]), aggregator)
    replies = list(grid.send_and_receive(questions(place)))
    assert sorted(values(replies)) == [0.0, 2.0, 3.0, 5.0]
    told = [reply.error.reason for reply in replies if reply.has_error()]
    assert told == ["not admitted: sent under its node's name; it has no credential"] * 2
    with pytest.raises(ValueError, match="under its node's name"):
        Clients(folder, answers).send_and_receive(questions(place))
    evaluation = questions(place, MessageType.EVALUATE)
    assert len(values(Clients(folder, answers).send_and_receive(evaluation))) == MEMBERS


def test_what_comes_twice_or_spoilt_to_the_door_is_refused_with_its_reason(
    folder, aggregator, place, still
):
    def cheats(message: Message, _) -> Message:
        """Client 0 hands two other updates in and then its own; client 1 hands rubbish in."""
        told = message.content[INSTRUCTION]
        context = client_context(folder / "public" / "ca.crt")
        node = message.metadata.dst_node_id

        def post(body: bytes) -> bytes:
            return ask(told["address"], context, "/update", body)

        if node == 0:
            who = member(folder, 0, place)
            assert hand_in(who, NAME, place, update(70.0), post) is None
            assert hand_in(who, NAME, place, update(70.0), post) is None  # repeated: it is in
            assert hand_in(who, NAME, place, update(71.0), post) == reasons.SECOND
        if node == 1:
            for body in (b"", bytes(50), bytes(500)):
                assert refused(lambda b=body: post(b)) == reasons.MALFORMED
        return answers(message, None)

    grid = door(folder, Clients(folder, cheats, nodes=[0, 1]), aggregator)
    replies = list(grid.send_and_receive(questions(place)[:2]))
    assert sorted(values(replies)) == [1.0, 70.0]
    assert grid.intake.close().updates == {}
    assert refused(lambda: grid.intake.answer("/update", b"", "")) == reasons.CLOSED_ROUND


def test_a_lost_answer_is_asked_for_again_with_a_fresh_ticket(monkeypatch, folder):
    monkeypatch.setattr("fedguard.enrolment.mod.time.sleep", lambda _: None)
    sent = []

    def deaf(body: bytes) -> bytes:
        sent.append(body[:124])
        raise NotAdmittedError(reasons.NO_ANSWER)

    who = member(folder, 0, Place(1))
    assert hand_in(who, NAME, Place(1), update(1.0), deaf) == reasons.NO_ANSWER
    assert len(set(sent)) == 5
    assert content_digest(update(1.0)) != content_digest(update(2.0))


def test_members_are_enrolled_once_and_files_are_their_owners_alone(folder):
    before = (folder / "registrar/members.json").read_text()
    assert command("members", folder, "--members", MEMBERS, "--k", 3).returncode == 0
    assert (folder / "registrar/members.json").read_text() == before
    done = command("members", folder, "--members", MEMBERS + 1, "--k", 3)
    assert done.returncode == 2
    assert "6 with k = 3, enrolled" in done.stderr
    assert command("members", folder / "x", "--members", 2, "--k", 3).returncode == 2
    secret = [*folder.glob("members/*.json"), *folder.glob("registrar/*.json")]
    secret += [*folder.glob("*/seal.key"), folder / "registrar/registrar.key"]
    assert len(secret) == MEMBERS + 4
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
    keys = json.loads(before)["keys"]
    for number in range(MEMBERS):
        mine = (folder / "members" / f"{number}.json").read_text()
        assert [n for n, key in keys.items() if key in mine] == [str(number)]
