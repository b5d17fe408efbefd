"""Encrypted strategies in a deployment: real clients encrypt, the server sees sums alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from safetensors.torch import load_file
from supernodes import RUN, SuperNodes, enrol

from fedguard.config import parse
from fedguard.encryption.mod import encryption_mod, mod_again
from fedguard.encryption.protocol.endpoint import ClientOptions
from fedguard.encryption.protocol.guards import Guards
from fedguard.errors import ConfigurationError, RunError
from fedguard.flower_app import serve
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

COMMON = {
    "clients": 5,
    "rounds": 2,
    "dataset": "digits",
    "malicious": 0.2,
    "attack": "sign-flip",
    "local_epochs": 1,
    "lr": 0.01,
    "batch_size": 128,
    "seed": 3,
}


def deploy(folder: Path, nodes: SuperNodes) -> Path:
    """Run the ServerApp's part on some nodes; return the run directory."""
    out = folder / "run"
    run_config = {**nodes.run_config, "out": str(out)}
    serve(nodes, Context(RUN, 1, {}, RecordDict(), run_config), lambda _: None)
    return out


def simulate(folder: Path, **changes: object) -> Path:
    out = folder / "simulated"
    Simulation(parse({**COMMON, "engine": "inprocess", **changes})).run(out)
    return out


def apart(one: Path, other: Path) -> float:
    """Return how far two runs' models are apart at most."""
    ours, theirs = (load_file(path / "model.safetensors") for path in (one, other))
    return max(float((value - theirs[name]).abs().max()) for name, value in ours.items())


STRATEGIES = {
    "xmkckks": {"strategy": "xmkckks"},
    "threshold": {"strategy": "xmkckks", "set": "strategy.threshold=3"},
    "groups": {"strategy": "xmkckks", "set": "strategy.groups=3 strategy.rule=median"},
    "ckks": {"strategy": "ckks"},
    "secagg+": {"strategy": "secagg+"},
}


def as_yaml(given: dict[str, object]) -> dict[str, object]:
    settings = dict(item.split("=") for item in str(given.get("set", "")).split())
    arguments = {key.removeprefix("strategy."): value for key, value in settings.items()}
    numbers = {k: int(v) if v.isdigit() else v for k, v in arguments.items()}
    return {"strategy": {"name": given["strategy"], **numbers}}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_deployment_ends_where_the_simulation_ends(name, tmp_path):
    """Within 1e-4; no array is sent, and the malicious client lies before it encrypts."""
    chosen = STRATEGIES[name]
    if name == "ckks":
        pytest.importorskip("tenseal")
    configs = enrol(tmp_path, 5, **{"fedguard-encryption": chosen["strategy"]})
    nodes = SuperNodes(configs, {**COMMON, **chosen})
    run = deploy(tmp_path, nodes)
    assert nodes.failures == []
    assert not any(nodes.arrays_sent())
    assert apart(run, simulate(tmp_path, **as_yaml(chosen))) < 1e-4
    honest = simulate(tmp_path, **as_yaml(chosen), attack="none", malicious=0.0)
    assert apart(run, honest) > 1e-3


def train_message(kind: str, **records: object) -> Message:
    return Message(RecordDict(dict(records)), dst_node_id=1000, message_type=kind)


def first_model() -> object:
    world = Simulation(parse({**COMMON, "strategy": "xmkckks"})).world
    return world.layout.to_arrays(world._first_vector())


@pytest.mark.parametrize("strategy", ["xmkckks", "secagg+"])
@pytest.mark.parametrize("kind", ["train", "train.default", "train.unlearn", "query.activations"])
def test_an_encrypting_node_never_answers_in_the_clear(strategy, kind, tmp_path):
    nodes = SuperNodes(enrol(tmp_path, 5), {**COMMON, "strategy": strategy})
    config = ConfigRecord({"server-round": 1, "lr": 0.01})
    (reply,) = nodes.send_and_receive([train_message(kind, arrays=first_model(), config=config)])
    assert reply.has_error()
    assert "in the clear" in nodes.failures[0] or "does not answer" in nodes.failures[0]
    assert nodes.sent == []


def test_a_node_that_insists_takes_part_in_no_other_strategy(tmp_path):
    """Whoever submits the run chooses its strategy; the node's own configuration wins."""
    insisting = enrol(tmp_path, 5, **{"fedguard-encryption": "xmkckks"})
    nodes = SuperNodes(insisting, {**COMMON, "strategy": "fedavg"})
    with pytest.raises(RunError, match="no reply of any client"):
        deploy(tmp_path, nodes)
    assert not any(nodes.arrays_sent())
    assert "'fedavg' is not valid; allowed: xmkckks (fedguard-encryption)" in nodes.failures[0]


@pytest.mark.parametrize(
    ("own", "settings", "why"),
    [
        ({}, "strategy.profile=light", "profile light promises"),
        ({"fedguard-minimum-participants": 6}, "", "wants at least 6"),
        ({"fedguard-smallest-threshold": 4}, "strategy.threshold=3", "wants at least 4"),
        ({"fedguard-smallest-profile": "wide"}, "", "profile default promises"),
    ],
)
def test_a_nodes_guards_are_its_own(own, settings, why, tmp_path):
    given = {**COMMON, "strategy": "xmkckks", "set": settings}
    nodes = SuperNodes(enrol(tmp_path, 5, **own), given)
    with pytest.raises(RunError, match=why):
        deploy(tmp_path, nodes)


def test_a_node_may_take_part_in_a_weaker_profile_if_it_says_so(tmp_path):
    configs = enrol(tmp_path, 5, **{"fedguard-smallest-profile": "light"})
    light = {"strategy": "xmkckks", "set": "strategy.profile=light"}
    nodes = SuperNodes(configs, {**COMMON, **light})
    assert read_jsonl(deploy(tmp_path, nodes) / "rounds.jsonl")[2]["malformed"] == 0


def test_a_bad_guard_is_refused(tmp_path):
    configs = enrol(tmp_path, 5, **{"fedguard-minimum-participants": "three"})
    nodes = SuperNodes(configs, {**COMMON, "strategy": "xmkckks"})
    with pytest.raises(RunError, match="fedguard-minimum-participants"):
        deploy(tmp_path, nodes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"set": "strategy.insecure_seed=3"}, "strategy"),
        ({"strategy": "xmkckks-cost-model"}, "strategy"),
        ({"malicious": 0.4, "attack": "min-max"}, "malicious"),
        ({"attack_knowledge": "full", "attack": "min-max"}, "attack_knowledge"),
        ({"attack": "adaptive-ipm"}, "attack"),
        ({"set": "faults.dropout=0.1"}, "faults"),
        ({"strategy": "secagg+", "enrolment": "k-pseudonym", "set": "enrolment.k=5"}, "enrolment"),
    ],
)
def test_what_real_clients_cannot_do_is_refused_before_the_first_round(changes, field, tmp_path):
    nodes = SuperNodes(enrol(tmp_path, 5), {**COMMON, "strategy": "xmkckks", **changes})
    with pytest.raises(ConfigurationError) as caught:
        deploy(tmp_path, nodes)
    assert caught.value.field == field
    assert nodes.sent == [] or all("metrics" in content for _, content in nodes.sent)


@pytest.mark.parametrize("attack", ["label-flip", "sign-flip", "feature-noise"])
def test_attacks_that_nobody_must_conspire_for_may_have_many_clients(attack, tmp_path):
    chosen = {"attack": attack, "malicious": 0.4, "rounds": 1}
    nodes = SuperNodes(enrol(tmp_path, 5), {**COMMON, "strategy": "xmkckks", **chosen})
    run = deploy(tmp_path, nodes)
    assert apart(run, simulate(tmp_path, strategy="xmkckks", **chosen)) < 1e-4


def stages(message: Message) -> set[str]:
    prefix = "fedguard.encryption."
    return {name.removeprefix(prefix) for name in message.content if name.startswith(prefix)}


def reasons(run: Path, client: int) -> dict[int, str | None]:
    records = [r for r in read_jsonl(run / "clients.jsonl") if r["client"] == client]
    return {record["round"]: record["reason"] for record in records}


def test_a_node_that_dies_between_upload_and_share_is_survived_with_a_threshold(tmp_path):
    """It says that it is there, and is gone when it is asked for its share."""
    gone: list[int] = []

    def dies(nodes: SuperNodes, node: int, message: Message) -> bool:
        if nodes.place(node) == 1 and "share" in stages(message):
            gone.append(node)
        return node in gone

    chosen = STRATEGIES["threshold"]
    nodes = SuperNodes(enrol(tmp_path, 5), {**COMMON, **chosen}, dies)
    run = deploy(tmp_path, nodes)
    assert gone
    rounds = read_jsonl(run / "rounds.jsonl")
    # Its update of round 1 arrived and counts; in round 2 it is missing.
    assert [record["malformed"] for record in rounds[1:]] == [0, 1]
    assert reasons(run, 1)[2] == "no reply"


def test_without_a_threshold_the_same_death_ends_the_run_with_one_line(tmp_path):
    def dies(nodes: SuperNodes, node: int, message: Message) -> bool:
        return nodes.place(node) == 1 and "share" in stages(message)

    nodes = SuperNodes(enrol(tmp_path, 5), {**COMMON, "strategy": "xmkckks"}, dies)
    with pytest.raises(RunError, match="vanished before they sent their decryption share"):
        deploy(tmp_path, nodes)


@pytest.mark.parametrize("name", ["xmkckks", "threshold", "ckks", "secagg+"])
def test_a_node_that_starts_again_misses_a_round_at_most(name, tmp_path):
    """It has lost its keys, and its ledger lets it go on from the next round."""
    if name == "ckks":
        pytest.importorskip("tenseal")
    seen: list[int] = []

    def starts_again(nodes: SuperNodes, node: int, message: Message) -> bool:
        if nodes.place(node) == 2 and message.content.array_records:
            seen.append(node)
            if len(seen) == 2:
                nodes.restart(node)
        return False

    given = {**COMMON, **STRATEGIES[name], "rounds": 4}
    run = deploy(tmp_path, SuperNodes(enrol(tmp_path, 5), given, starts_again))
    missed = [number for number, why in reasons(run, 2).items() if why is not None]
    assert missed in ([], [2])
    if name != "secagg+":
        ledger = json.loads((tmp_path / "2.ledger").read_text())
        assert ledger["rounds"] == [number for number in (1, 2, 3, 4) if number not in missed]
        assert len(set(ledger["runs"])) == 1


@pytest.mark.parametrize(("name", "allowed"), [("xmkckks", True), ("threshold", False)])
def test_the_ledger_knows_a_model_of_another_run(name, allowed, tmp_path, monkeypatch):
    """The same cohort may open the same sum again; a sum that can leave somebody out may not."""
    given = {**COMMON, **STRATEGIES[name], "rounds": 1}
    configs = enrol(tmp_path, 5)
    deploy(tmp_path, SuperNodes(configs, given))
    monkeypatch.setattr("supernodes.RUN", 8)
    (tmp_path / "again").mkdir()
    if allowed:
        deploy(tmp_path / "again", SuperNodes(configs, given))
        ledger = json.loads((tmp_path / "0.ledger").read_text())
        assert ledger["rounds"] == [1, 1]
        assert len(set(ledger["runs"])) == 2
        assert len(set(ledger["models"])) == 1
    else:
        with pytest.raises(RunError, match="from the model of round 1 again"):
            deploy(tmp_path / "again", SuperNodes(configs, given))


def test_a_client_whose_ledger_is_spoilt_does_not_answer(tmp_path):
    configs = enrol(tmp_path, 5)
    (tmp_path / "3.ledger").write_text("{")
    run = deploy(tmp_path, SuperNodes(configs, {**COMMON, "strategy": "xmkckks", "rounds": 1}))
    assert "cannot be read" in str(reasons(run, 3)[1])
    assert read_jsonl(run / "rounds.jsonl")[1]["malformed"] == 1


ANSWERING = """
import sys
from flwr.app import ConfigRecord, Context, Message, RecordDict
from fedguard.flower_app import client_app
from fedguard.grids.identity import assume_server_identity

assume_server_identity()
options = '{"scheme": "xmkckks", "backend": "numpy", "insecure_seed": null, "guards": {}}'
maker = "fedguard.encryption.mod:mod_again"
makers = {"strategy": "xmkckks", "makers": [maker], "given": [options]}
state = RecordDict({"fedguard.client-mods": ConfigRecord(makers)})
run = {"strategy": "xmkckks", "clients": 5}
context = Context(7, 1, {"partition-id": 1, "fedguard-encryption": "xmkckks"}, state, run)
asked = RecordDict({"fedguard.encryption.probe": ConfigRecord({})})
reply = client_app(Message(asked, dst_node_id=1, message_type="train"), context)
assert list(reply.content) == ["fedguard.encryption.probe"], reply
sys.exit("torch" in sys.modules)
"""


def test_a_message_that_trains_nothing_is_answered_without_torch():
    """Flower starts a process per message; most of the protocol's need not make the strategy."""
    done = subprocess.run([sys.executable, "-c", ANSWERING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_mod_that_is_made_again_is_the_one_that_was():
    options = ClientOptions("ckks", "tenseal", Guards(minimum_participants=4))
    maker, given = encryption_mod(options).origin
    assert maker == "fedguard.encryption.mod:mod_again"
    assert mod_again(given).options == options
