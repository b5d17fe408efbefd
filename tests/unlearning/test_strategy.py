"""The strategy end to end, on digits with a backdoor."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from flwr.app import Array
from safetensors.torch import load_file

from fedguard import registry
from fedguard.clients.federation import draw_malicious
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.grids.base import WrappedGrid
from fedguard.grids.inprocess import InProcessGrid
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.unlearning.grid import UnlearningClients
from fedguard.unlearning.instructions import ACTIVATIONS, ASCEND, CONTRIBUTIONS
from fedguard.unlearning.methods import METHODS
from fedguard.unlearning.pruning import prunable_layers

SEED = 0
(BAD,) = draw_malicious(10, 0.1, SEED)
REQUEST = 9
BASE = {
    "strategy": "soul",
    "attack": {"name": "badnets", "size": 2, "scale": 2.0},
    "malicious": 0.1,
    "clients": 10,
    "rounds": REQUEST + 4,
    "local_epochs": 2,
    "server_samples": 60,
    "seed": SEED,
    "unlearn": [{"client": BAD, "round": REQUEST}],
}
SHORT = {**BASE, "rounds": 5, "local_epochs": 1, "unlearn": [{"client": BAD, "round": 3}]}


class StopError(Exception):
    pass


def run(out, stop_after=None, resume=False, base=BASE, **strategy):
    config = parse({**base, "strategy": {"name": "soul", **strategy}})
    simulation = Simulation(config)

    def listen(record):
        if record["round"] == stop_after:
            raise StopError

    if stop_after is None:
        summary = simulation.run(out, resume=resume)
        return summary, json.loads((out / "unlearning.json").read_text()), simulation
    with pytest.raises(StopError):
        simulation.run(out, on_round=listen)
    return None, None, simulation


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_lowers_the_backdoor(method, tmp_path):
    more = {"recovery_rounds": 4} if method == "retrain" else {"recovery_rounds": 1}
    base = {**BASE, "rounds": REQUEST + 9} if method == "federaser" else BASE
    summary, found, simulation = run(tmp_path, base=base, method=method, **more)
    before, recovered = found["phases"]["before"], found["phases"]["recovered"]
    assert before["backdoor_success"] > 0.5
    assert recovered["backdoor_success"] < before["backdoor_success"] - 0.05
    if method not in ("finetune", "random-prune"):
        assert recovered["backdoor_success"] < 0.5
    assert found["requests"] == [{"client": BAD, "round": REQUEST}]
    assert math.isfinite(summary["final"]["loss"])
    asked = {r["client"] for r in read_jsonl(tmp_path / "clients.jsonl") if r["round"] > REQUEST}
    assert asked == set(range(10)) - {BAD}
    costs = found["costs"]
    assert costs["unlearning"]["flops"] > 0
    assert costs["ratios"]["bytes"] < 1.2
    assert simulation.strategy.memory.notes == []


def test_silenced_units_stay_silent(tmp_path):
    _, found, simulation = run(tmp_path, pruning="random", beta=0.25)
    keep = simulation.strategy.memory.keep
    layout = simulation.server_model.layout
    final = layout.flatten(load_file(tmp_path / "model.safetensors"))
    assert found["silenced_parameters"] == pytest.approx(float((~keep).double().mean()))
    assert 0.2 < found["silenced_parameters"] < 0.3
    assert float(final[~keep].abs().max()) == 0.0
    assert float(final[keep].abs().mean()) > 0.0
    (layer,) = prunable_layers(simulation.strategy.tools.model)
    assert layer.name == "hidden.0"
    assert bool(layout.unflatten(keep)["output.bias"].all())


@pytest.mark.parametrize("stop", [2, 3, 4])
@pytest.mark.parametrize("method", ["soul", "pga", "federaser"])
def test_resuming_gives_the_same_model(method, stop, tmp_path):
    base = {**SHORT, "rounds": 6}
    whole, found, _ = run(tmp_path / "a", base=base, method=method, calibration_interval=1)
    run(tmp_path / "b", stop_after=stop, base=base, method=method, calibration_interval=1)
    resumed, again, _ = run(
        tmp_path / "b", resume=True, base=base, method=method, calibration_interval=1
    )
    assert resumed["model_sha256"] == whole["model_sha256"]
    for timed in (found, again):
        for entry in ("unlearning", "retraining_as_long", "ratios"):
            del timed["costs"][entry]["seconds"]
    assert again == found


def test_forged_requests_are_refused(tmp_path):
    forged = {"client": 5, "round": 3, "requester": 2}
    genuine = {"client": 6, "round": 4}
    _, found, simulation = run(tmp_path, base={**SHORT, "unlearn": [forged, genuine]})
    assert [entry["reason"] for entry in found["refused"]] == ["client 2 may not ask to forget 5"]
    assert [request["client"] for request in found["requests"]] == [6]
    assert simulation.strategy.memory.forgotten_clients == {6}
    asked = {r["client"] for r in read_jsonl(tmp_path / "clients.jsonl") if r["round"] == 5}
    assert asked == set(range(10)) - {6}


@pytest.mark.parametrize("part", [{"share": 0.5}, {"label": 0}])
def test_a_client_that_forgets_rows_stays_without_them(part, tmp_path):
    base = {**SHORT, "unlearn": [{"client": BAD, "round": 3, **part}]}
    _, found, simulation = run(tmp_path, base=base)
    claims = {
        r["round"]: r["num_examples"]
        for r in read_jsonl(tmp_path / "clients.jsonl")
        if r["client"] == BAD and r["num_examples"] is not None
    }
    assert set(claims) == {1, 2, 4, 5}
    assert claims[4] == claims[5] < claims[2]
    if "share" in part:
        assert claims[4] == claims[2] - round(0.5 * claims[2])
    assert simulation.strategy.memory.forgotten_clients == frozenset()
    assert str(BAD) in found["phases"]["after"]["clients"]


def test_several_at_once(tmp_path):
    requests = [{"client": BAD, "round": 3}, {"client": (BAD + 1) % 10, "round": 3, "share": 0.2}]
    for method in ("soul", "pga", "class-pruning"):
        _, found, _ = run(tmp_path / method, base={**SHORT, "unlearn": requests}, method=method)
        assert len(found["requests"]) == 2
        assert found["notes"] == []


def test_verdicts_make_requests(tmp_path):
    base = {**SHORT, "attack": {"name": "sign-flip", "scale": 6.0}, "rounds": 6}
    base["unlearn"] = [{"rejected": 2}]
    _, found, simulation = run(
        tmp_path, base=base, rule="krum", rule_arguments={"assumed_malicious": 0.1}
    )
    # Krum takes one client and rejects nine; never more than half of them are forgotten for it.
    assert len(simulation.strategy.memory.by_verdict) == 5
    assert all(request["requester"] == "server" for request in found["requests"])
    assert all(request["round"] == 3 for request in found["requests"])


def test_rounds_say_how_much_is_forgotten(tmp_path):
    run(tmp_path, base=SHORT)
    rounds = read_jsonl(tmp_path / "rounds.jsonl")
    assert ["forget_accuracy" in record for record in rounds] == [False] * 3 + [True] * 3
    assert all(0 <= record["retain_accuracy"] <= 1 for record in rounds[3:])


def test_a_hostile_unlearned_model_is_bounded(tmp_path):
    _, _, simulation = run(tmp_path, base=SHORT)
    strategy = simulation.strategy
    erasure = strategy._make_erasure(3)
    vector = erasure.situation.vector
    bounded = erasure.bounded(-40.0 * vector, BAD)
    assert float(bounded.norm()) <= strategy.bounds.radius * float(vector.norm()) * 1.001
    before = erasure.held_out_accuracy(vector)
    mixed = vector + (1 - strategy.options.alpha) * bounded
    assert erasure.held_out_accuracy(mixed) >= before - strategy.bounds.tolerance


def test_the_inner_rule_aggregates():
    from fedguard.testing.worlds import honest_updates

    updates = honest_updates(9, seed=1)
    inner = registry.create("strategy", "trimmed-mean", assumed_malicious=0.2)
    outer = registry.create(
        "strategy", "soul", rule="trimmed-mean", rule_arguments={"assumed_malicious": 0.2}
    )
    assert torch.equal(outer.combine(updates).delta, inner.combine(updates).delta)


@pytest.mark.parametrize("rule", ["soul", "xmkckks", "nothing", "flwr.serverapp.strategy:FedAvg"])
def test_rules_that_cannot_be_inside_are_refused(rule):
    with pytest.raises(ConfigurationError):
        registry.create("strategy", "soul", rule=rule)


def test_the_server_needs_rows_of_its_own():
    with pytest.raises(ConfigurationError, match="server_samples"):
        Simulation(parse({**SHORT, "server_samples": 0}))


class Tampered(WrappedGrid):
    """Clients that answer unlearning's instructions with nonsense."""

    def __init__(self, inner, spoil):
        super().__init__(inner)
        self.spoil = spoil

    def send_and_receive(self, messages, *, timeout=None):
        replies = self.inner.send_and_receive(messages, timeout=timeout)
        for reply in replies:
            if (record := reply.content.config_records.get(CONTRIBUTIONS)) is not None:
                self.spoil(CONTRIBUTIONS, record)
            for kind, record in reply.content.array_records.items():
                if reply.metadata.message_type in (ASCEND, ACTIVATIONS):
                    self.spoil(kind, record)
        return replies


def nonsense(kind, record):
    for name in list(record):
        if kind == CONTRIBUTIONS:
            record[name] = [math.nan] * len(record[name])
        else:
            record[name] = Array(np.full_like(record[name].numpy(), np.nan))


def wrong_shape(kind, record):
    for name in list(record):
        zeros = Array(np.zeros((3, 5), dtype=np.float32))
        record[name] = [0.0, 0.0] if kind == CONTRIBUTIONS else zeros


def lies_about_units(kind, record):
    if kind == CONTRIBUTIONS:
        record["mean"] = ["a word"]


@pytest.mark.parametrize("spoil", [nonsense, wrong_shape, lambda kind, record: record.clear()])
@pytest.mark.parametrize("method", ["soul", "pga", "class-pruning"])
def test_nonsense_from_clients_is_set_aside(method, spoil, tmp_path):
    simulation, summary = run_tampered(tmp_path, spoil, method=method)
    assert simulation.strategy.memory.notes
    assert math.isfinite(summary["final"]["loss"])
    assert simulation.strategy.memory.forgotten_clients == {BAD}


def run_tampered(out, spoil, **strategy):
    simulation = Simulation(parse({**SHORT, "strategy": {"name": "soul", **strategy}}))
    inner = InProcessGrid(simulation.trainer)
    grid = Tampered(UnlearningClients(inner, simulation.trainer), spoil)
    return simulation, simulation.run(out, grid=grid)


def test_without_contributions_nothing_is_pruned(tmp_path):
    simulation, _ = run_tampered(tmp_path, lies_about_units)
    memory = simulation.strategy.memory
    assert memory.notes == ["round 3: no requester sent contributions"]
    assert memory.keep is None


def test_methods_have_a_step_size_of_their_own():
    def lr(**arguments):
        return registry.create("strategy", "soul", **arguments).options.ascent.lr

    assert lr(method="soul") == METHODS["soul"].ascent_lr != lr(method="pga")
    assert lr(method="ascent") == METHODS["ascent"].ascent_lr
    assert lr(method="pga", ascent_lr=0.3) == lr(method="soul", ascent_lr=0.3) == 0.3


def test_pga_keeps_to_a_third_of_the_way_to_a_random_model(tmp_path):
    _, _, simulation = run(tmp_path, base=SHORT, method="pga")
    situation = simulation.strategy._make_erasure(3).situation
    (request,) = simulation.strategy.requests
    settings = simulation.strategy.method.settings(situation, request)
    trainable = situation.layout.num_trainable
    # Weights of two networks that know nothing of each other stand at right angles.
    apart = math.hypot(
        float(situation.vector[:trainable].norm()), float(situation.initial[:trainable].norm())
    )
    assert settings.radius == pytest.approx(apart / 3, rel=0.05)
    assert (settings.repair, settings.tolerance, settings.retries) == (0.0, 2.0, 0)


@pytest.mark.parametrize(
    ("field", "value"), [("forget_target", 1.5), ("ascent_repair", -1.0), ("ascent_lr", 0.0)]
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigurationError, match=field):
        registry.create("strategy", "soul", **{field: value})
