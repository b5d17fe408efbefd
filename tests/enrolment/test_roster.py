"""The roster admits each client's own reply once per round, and says why it refuses others."""

from __future__ import annotations

import hashlib

import pytest
import torch
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedguard.config import parse
from fedguard.enrolment.base import EnrolledGrid, Enrolment, make_enrolment
from fedguard.enrolment.roster import Roster
from fedguard.errors import ConfigurationError
from fedguard.grids.base import WrappedGrid
from fedguard.grids.inprocess import InProcessGrid
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.traits import Traits

SMALL = {
    "clients": 5,
    "malicious": 0.0,
    "attack": "none",
    "strategy": "fedavg",
    "rounds": 2,
    "local_epochs": 1,
    "partition": "iid",
}


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@pytest.fixture
def roster() -> Roster:
    found = Roster()
    for client in (1, 2):
        found.key_of(client)
    return found


def test_each_clients_own_reply_is_admitted_once_per_round(roster):
    for server_round in (1, 2):
        for client in (1, 2):
            ticket = roster.ticket(client, server_round, digest("a"))
            assert roster.refusal(client, server_round, digest("a"), ticket) is None


def test_every_misdeed_has_a_reason_of_its_own(roster):
    good = roster.ticket(1, 5, digest("a"))
    old = roster.ticket(1, 4, digest("a"))
    other = roster.ticket(1, 5, digest("b"))
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    told = {
        "somebody else's": roster.refusal(2, 5, digest("a"), good),
        "no ticket": roster.refusal(1, 5, digest("a"), b""),
        "one bit": roster.refusal(1, 5, digest("a"), flipped),
        "replayed": roster.refusal(1, 5, digest("a"), old),
        "changed": roster.refusal(1, 5, digest("a"), other),
        "stranger": roster.refusal(9, 5, digest("a"), good),
        "first": roster.refusal(1, 5, digest("a"), good),
        "second": roster.refusal(1, 5, digest("a"), good),
    }
    assert told["first"] is None
    for forged in ("somebody else's", "no ticket", "one bit"):
        assert told[forged].startswith("forged")
    assert told["replayed"].startswith("replayed")
    assert told["changed"].startswith("changed on the way")
    assert told["stranger"] == "not enrolled"
    assert told["second"] == "a second update in one round"


def test_a_ticket_whose_round_was_rewritten_is_forged(roster):
    old, now = roster.ticket(1, 4, digest("a")), roster.ticket(1, 5, digest("a"))
    assert roster.refusal(1, 5, digest("a"), now[:8] + old[8:]).startswith("forged")


def test_a_refused_reply_does_not_use_up_the_clients_turn(roster):
    assert roster.refusal(1, 5, digest("a"), b"nonsense") is not None
    assert roster.refusal(1, 5, digest("a"), roster.ticket(1, 5, digest("a"))) is None


def test_keys_are_drawn_once_and_differ():
    roster = Roster()
    assert roster.key_of(1) == roster.key_of(1) != roster.key_of(2)
    assert Roster().key_of(1) != roster.key_of(1)
    assert len(roster.key_of(1)) == 32


def run(out, **values):
    return Simulation(parse({**SMALL, **values})).run(out)


def test_a_run_with_a_roster_is_the_run_without_bit_for_bit(tmp_path):
    plain = run(tmp_path / "plain")
    enrolled = run(tmp_path / "roster", enrolment="roster")
    assert enrolled["model_sha256"] == plain["model_sha256"]
    assert enrolled["enrolment"] == "roster"
    assert enrolled["replies"] == plain["replies"]


class Suspicious(Enrolment):
    """Takes client 3's ticket for another's, and writes down what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, bytes]] = []

    def ticket(self, client, server_round, digest, exchange=0):
        return digest

    def refusal(self, client, server_round, digest, ticket, exchange=0):
        self.seen.append((client, server_round, ticket))
        return "looks odd" if client == 3 else None


@pytest.mark.parametrize("stacked", [True, False])
def test_who_is_not_admitted_is_recorded_with_the_reason_and_the_round_goes_on(tmp_path, stacked):
    simulation = Simulation(parse(SMALL))
    door = Suspicious()
    simulation.world.enrolment = door
    inner = InProcessGrid(simulation.trainer)
    summary = simulation.run(tmp_path, grid=inner if stacked else Unstacked(inner))
    clients = read_jsonl(tmp_path / "clients.jsonl")
    refused = [c for c in clients if c["client"] == 3]
    assert [c["reason"] for c in refused] == ["error reply: not admitted: looks odd"] * 2
    assert {c["outcome"] for c in refused} == {"failed"}
    assert summary["replies"]["failed"] == 2
    assert summary["replies"]["accepted"] == 8
    assert {(client, t) for client, t, _ in door.seen} == {(c, t) for c in range(5) for t in (1, 2)}
    assert len({ticket for _, _, ticket in door.seen}) == 10  # another update, another digest


class Unstacked(WrappedGrid):
    """Hands on ordinary messages."""

    def send_and_receive(self, messages, *, timeout=None):
        return iter(list(self.inner.send_and_receive(messages, timeout=timeout)))


def test_evaluation_passes_the_door_unseen():
    simulation = Simulation(parse(SMALL))
    door = Suspicious()
    grid = EnrolledGrid(InProcessGrid(simulation.trainer), door)
    arrays = simulation.world.layout.to_arrays(simulation.trainer.model.whole_vector())
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
    question = Message(content, dst_node_id=3, message_type=MessageType.EVALUATE)
    (reply,) = grid.send_and_receive([question])
    assert not reply.has_error()
    assert door.seen == []
    assert set(grid.get_node_ids()) == set(range(5))


class Anonymous(Roster):
    """Nobody keeps a handle."""

    linkable = False


def test_a_rule_that_judges_by_earlier_rounds_needs_lasting_handles():
    config = parse({**SMALL, "enrolment": f"{__name__}:Anonymous"})
    with pytest.raises(ConfigurationError, match="judges clients by earlier rounds"):
        make_enrolment(config, Traits(history=True))
    assert isinstance(make_enrolment(config, Traits()), Anonymous)
    assert make_enrolment(parse(SMALL), Traits()) is None
    with pytest.raises(ConfigurationError, match="enrolment"):
        make_enrolment(parse({**SMALL, "enrolment": "builtins:dict"}), Traits())


def test_a_digest_covers_names_and_values():
    simulation = Simulation(parse(SMALL))
    door = Suspicious()
    vector = torch.zeros(simulation.world.layout.size)
    deltas = []
    for value in (0.0, 0.0, 1e-30):
        changed = vector.clone()
        changed[0] = value
        deltas.append(simulation.world.layout.to_arrays(changed))
    grid = EnrolledGrid(Fixed(deltas), door)
    question = [
        Message(RecordDict(), dst_node_id=c, message_type=MessageType.TRAIN) for c in (0, 1, 2)
    ]
    list(grid.send_and_receive(question))
    same, again, other = (ticket for _, _, ticket in door.seen)
    assert same == again != other


class Fixed(WrappedGrid):
    """Replies with given arrays, one per client."""

    def __init__(self, arrays) -> None:
        super().__init__(None)
        self.arrays = arrays

    def send_and_receive(self, messages, *, timeout=None):
        return [
            Message(RecordDict({"arrays": arrays}), reply_to=message)
            for arrays, message in zip(self.arrays, messages, strict=True)
        ]
