"""A run behind anonymous enrolment is the run without it, and says what its aggregator can know."""

from __future__ import annotations

import json

import pytest
import torch

from fedguard import registry
from fedguard.config import parse
from fedguard.enrolment import reasons
from fedguard.enrolment.base import Exchanges, make_enrolment
from fedguard.errors import ConfigurationError
from fedguard.grids.messages import ROUND_KEY
from fedguard.records.reader import read_run
from fedguard.records.writer import read_jsonl
from fedguard.reporting.enrolment import enrolment_section
from fedguard.reporting.report import write_report
from fedguard.runs.simulation import Simulation
from fedguard.traits import Traits, traits_of
from fedguard.updates import ClientUpdates

SMALL = {
    "clients": 8,
    "malicious": 0.25,
    "attack": "sign-flip",
    "strategy": "multi-krum",
    "rounds": 3,
    "local_epochs": 1,
    "partition": "iid",
}
LABELS = {"name": "k-pseudonym", "k": 4}
BLIND = {**LABELS, "variant": "blind"}


def run(out, **values):
    return Simulation(parse({**SMALL, **values})).run(out)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("enrolment", [LABELS, BLIND, {**LABELS, "linkable": True}])
def test_the_model_is_the_same_bit_for_bit(tmp_path, plain, enrolment):
    found = run(tmp_path, enrolment=enrolment)
    assert found["model_sha256"] == plain["model_sha256"]
    assert found["replies"] == plain["replies"]
    records = read_jsonl(tmp_path / "clients.jsonl")
    handles = [record["handle"] for record in records]
    assert len(set(handles)) == (8 if enrolment.get("linkable") else 24)
    assert all(len(handle) == 32 for handle in handles)


def test_handles_follow_from_the_seed_and_from_nothing_that_happened_before(tmp_path):
    """So a resumed run writes what the whole one would have."""
    for enrolment in (LABELS, BLIND):
        doors = [make_enrolment(parse({**SMALL, "enrolment": enrolment}), Traits()) for _ in "ab"]
        for number in (1, 2, 3):
            ticket = doors[0].ticket(5, number, bytes(32))
            assert doors[0].refusal(5, number, bytes(32), ticket) is None
        ticket = doors[1].ticket(5, 3, bytes(32))
        assert doors[1].refusal(5, 3, bytes(32), ticket) is None
        assert doors[0].handle_of(5, 3) == doors[1].handle_of(5, 3) is not None
        assert doors[0].handle_of(5, 2) != doors[0].handle_of(5, 3)
        assert doors[0].handle_of(4, 3) is None


def test_what_the_network_spoils_or_doubles_is_refused_and_recorded(tmp_path):
    faults = {"corrupt": 0.4, "duplicate": 0.4}
    summary = run(tmp_path, enrolment=LABELS, faults=faults, strategy="fedavg", rounds=6)
    records = read_jsonl(tmp_path / "clients.jsonl")
    changed = [r for r in records if r["reason"] and reasons.CHANGED in r["reason"]]
    assert changed
    assert {r["outcome"] for r in changed} == {"failed"}
    assert {r["handle"] for r in changed} == {None}
    doubled = [r for r in records if r["fault"] == "duplicate"]
    assert doubled
    assert {r["reason"] for r in doubled} == {"sent more than one reply; the first counts"}
    assert all(r["accepted"] for r in doubled)
    assert summary["replies"]["accepted"] + summary["replies"]["failed"] == 48
    assert reasons.CHANGED in summary["replies"]["commonest_reason"]
    section = enrolment_section(read_run(tmp_path))
    honest = sum(not record["malicious"] for record in changed)
    row = f'>{len(changed)}</td><td class="num">{honest}</td>'
    assert row in section.split(reasons.CHANGED)[1][:80]
    assert f"{summary['replies']['accepted']} updates admitted, {len(changed)} not." in section
    assert 'id="enrolment"' in write_report(tmp_path).read_text()


def test_the_threat_model_says_who_can_link_what(tmp_path):
    wanted = {
        "labels": (LABELS, ["1 of 4", "smallest group 4", "handles last one round"]),
        "blind": (BLIND, ["nobody can name who sent what", "contents of updates may"]),
        "linkable": ({**LABELS, "linkable": True}, ["link a client's updates with each other"]),
    }
    for name, (enrolment, words) in wanted.items():
        simulation = Simulation(parse({**SMALL, "rounds": 1, "enrolment": enrolment}))
        told = json.dumps(simulation.world.threat_model()["defence"]["enrolment"])
        assert [word for word in words if word not in told] == [], name


def test_rules_that_need_to_know_clients_again_are_refused_or_run_linkable(tmp_path):
    for strategy, why in (("foolsgold", "earlier rounds"), ("fldetector", "earlier rounds")):
        with pytest.raises(ConfigurationError, match=why) as caught:
            Simulation(parse({**SMALL, "strategy": strategy, "enrolment": LABELS}))
        assert "enrolment.linkable=true" in str(caught.value)
        linkable = {**LABELS, "linkable": True}
        assert Simulation(parse({**SMALL, "strategy": strategy, "enrolment": linkable}))
    with pytest.raises(ConfigurationError, match="lasting client keys"):
        make_enrolment(parse({**SMALL, "enrolment": LABELS}), Traits(lasting_keys=True))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"enrolment": {**LABELS, "k": 9}}, "enrolment.k: 9 is not valid; allowed: at most"),
        ({"enrolment": LABELS, "fraction": 0.4}, "fraction: '3 clients a round'"),
        ({"enrolment": {**LABELS, "k": 1}}, "enrolment.k: 1"),
        ({"enrolment": {**LABELS, "variant": "rsa"}}, "enrolment.variant: 'rsa'"),
        ({"enrolment": {**BLIND, "linkable": True}}, "enrolment.linkable: True"),
        ({"enrolment": {**LABELS, "epoch_rounds": 0}}, "enrolment.epoch_rounds: 0"),
    ],
)
def test_what_would_hide_nobody_is_refused_before_the_first_round(values, words):
    with pytest.raises(ConfigurationError) as caught:
        Simulation(parse({**SMALL, **values}))
    assert words in str(caught.value)


def test_fresh_keys_of_secure_aggregation_are_signed_in_every_exchange(tmp_path):
    found = run(
        tmp_path,
        strategy="secagg+",
        attack="none",
        malicious=0.0,
        rounds=1,
        clients=4,
        enrolment=LABELS,
        model={"name": "logistic"},
    )
    assert found["replies"]["accepted"] == 4


class FakeMessage:
    def __init__(self, server_round=None):
        records = {} if server_round is None else {"config": {ROUND_KEY: server_round}}
        self.content = type("Content", (), {"config_records": records})


def test_exchanges_are_numbered_within_their_round():
    exchanges = Exchanges()
    told = [exchanges.next(FakeMessage(n)) for n in (1, None, None, 2, None, 2, 5)]
    assert told == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (5, 0)]


FORGETFUL = [
    name
    for name in registry.names("strategy")
    if (t := traits_of(registry.find("strategy", name))).rule
    and not (t.history or t.tools or t.client_side or t.requests or t.latent)
]


@pytest.mark.parametrize("name", FORGETFUL)
def test_a_rule_that_says_it_reads_no_history_knows_no_client_again(name):
    """Renamed in every round, in the same order, clients fare the same, bit for bit."""
    kept, renamed = (registry.create("strategy", name, seed=0) for _ in "ab")
    stream = torch.Generator().manual_seed(3)
    for number in (1, 2, 3):
        deltas = torch.randn(12, 30, generator=stream)
        ids = sorted(int(i) for i in torch.randperm(10_000, generator=stream)[:12])
        same = ClientUpdates.from_matrix(deltas, server_round=number)
        other = ClientUpdates.from_matrix(deltas, node_ids=ids, server_round=number)
        one, two = kept.decide(same), renamed.decide(other)
        assert torch.equal(one.delta, two.delta)
        assert torch.equal(one.weights, two.weights)


def test_most_rules_need_no_lasting_handle():
    assert len(FORGETFUL) >= 15
    assert not {"foolsgold", "fldetector"} & set(FORGETFUL)
