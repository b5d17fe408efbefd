"""The round of a request: what is asked of whom, and what of the answers may stand."""

from __future__ import annotations

import math

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from torch import nn
from unlearning_worlds import CLASSES, FEATURES, reply, request, situation

from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.unlearning.ascent import PlainAscent
from fedguard.unlearning.class_pruning import ClassPruning
from fedguard.unlearning.climbing import AscentSettings
from fedguard.unlearning.erasure import Bounds, Erasure
from fedguard.unlearning.finetune import FineTune
from fedguard.unlearning.instructions import (
    ACTIVATIONS,
    ASCEND,
    CONTRIBUTIONS,
    COUNTS,
    HELD_OUT,
    named_rows,
    to_record,
)
from fedguard.unlearning.memory import Memory
from fedguard.unlearning.method import Erased, Options
from fedguard.unlearning.soul import SoulMethod

UNITS = 8
BOUNDS = Bounds(radius=0.5, tolerance=0.2)


class Line(nn.Module):
    """One hidden layer; the class is that of the largest of the first three features."""

    latent_layer = "hidden"

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(FEATURES, UNITS)
        self.output = nn.Linear(UNITS, CLASSES)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            for label in range(CLASSES):
                self.hidden.weight[label, label] = 1.0
                self.output.weight[label, label] = 1.0

    def forward(self, x):
        return self.output(self.hidden(x).relu())


def make(kind=SoulMethod, *requests, memory=None, options=None, **values):
    module = Line()
    rows = torch.eye(CLASSES, FEATURES).repeat(4, 1) * 2.0
    tools = ServerTools(module, rows, torch.arange(12) % CLASSES, "hidden", CLASSES)
    known = situation(*requests, module=Line(), **values)
    chosen = options or Options(alpha=0.2, ascent=AscentSettings(lr=0.3, target=0.1))
    return Erasure(kind(chosen), memory or Memory(), known, tools, BOUNDS)


def asked(erasure, nodes=(0, 1, 2, 3)):
    arrays = erasure.situation.layout.to_arrays(erasure.situation.vector)
    reply(RecordDict(), 1)  # makes sure of an identity
    return erasure.messages(arrays, nodes, 3)


# --- asking -------------------------------------------------------------------------------------


def test_only_requesters_that_are_there_climb():
    messages = asked(make(SoulMethod, request(1), request(7)))
    assert [(m.metadata.dst_node_id, m.metadata.message_type) for m in messages] == [(1, ASCEND)]


def test_soul_climbs_in_a_ball_around_the_global_model_with_rows_to_hold_on_to():
    erasure = make()
    (message,) = asked(erasure)
    settings = AscentSettings.from_config(message.content.config_records["config"])
    size = float(erasure.situation.vector.double().norm())
    assert settings.radius == pytest.approx(0.5 * size)
    assert settings.target == pytest.approx(1 / 3)  # guessing, which is more than 0.1
    assert settings.retries == 3
    assert message.content.config_records["config"][CONTRIBUTIONS]
    assert torch.equal(
        torch.from_numpy(message.content.array_records[HELD_OUT]["x"].numpy()), erasure.tools.x
    )


def test_plain_ascent_is_told_no_rows_and_no_ball():
    (message,) = asked(make(PlainAscent))
    settings = AscentSettings.from_config(message.content.config_records["config"])
    assert math.isinf(settings.radius)
    assert HELD_OUT not in message.content
    assert not message.content.config_records["config"][CONTRIBUTIONS]


def test_everyone_who_is_not_forgotten_measures_without_what_it_forgot():
    memory = Memory(carried_out=[request(0), request(3, label=2)])
    messages = asked(make(ClassPruning, request(1, share=0.5), memory=memory))
    found = {m.metadata.dst_node_id: named_rows(m.content) for m in messages}
    assert found == {1: (True, None, 0.5), 2: (False, None, None), 3: (True, 2, None)}
    assert {m.metadata.message_type for m in messages} == {ACTIVATIONS}


def test_fine_tuning_asks_nobody():
    assert asked(make(FineTune)) == []


# --- bounding -----------------------------------------------------------------------------------


def harmless(erasure):
    """Return a step that no row of the server notices: it moves a silent unit."""
    step = torch.zeros_like(erasure.situation.vector)
    erasure.situation.layout.unflatten(step)["hidden.weight"][7, 5] = 1.0
    return step


def test_a_step_within_the_ball_is_left_alone():
    erasure = make()
    step = 0.5 * harmless(erasure)
    assert torch.equal(erasure.bounded(step, 1), step)


def test_a_longer_step_is_brought_onto_the_ball():
    erasure = make()
    radius = 0.5 * float(erasure.situation.vector.norm())
    found = erasure.bounded(1e6 * harmless(erasure), 1)
    torch.testing.assert_close(found, radius * harmless(erasure))


def test_a_step_that_hurts_is_halved_until_it_does_not():
    """It pulls class 0's output down: 4 of 12 rows are lost where 0.8 of it exceeds 4."""
    erasure = make()
    erasure.bounds = Bounds(radius=100.0, tolerance=0.2)
    step = torch.zeros_like(erasure.situation.vector)
    bias = erasure.situation.layout.unflatten(step)["output.bias"]
    bias[0] = -20.0
    assert erasure.held_out_accuracy(erasure.situation.vector) == 1.0
    found = erasure.situation.layout.unflatten(erasure.bounded(step, 1))["output.bias"]
    assert found.tolist() == [-2.5, 0.0, 0.0]  # 0.8 * 2.5 = 2 is what class 0 has to lose


def test_a_step_that_still_hurts_is_dropped_and_noted():
    erasure = make()
    erasure.bounds = Bounds(radius=1e6, tolerance=0.2)
    step = torch.zeros_like(erasure.situation.vector)
    erasure.situation.layout.unflatten(step)["output.bias"][0] = -1000.0
    assert not erasure.bounded(step, 4).any()
    assert erasure.memory.notes == ["client 4's unlearned model would have done harm: dropped"]


# --- reading ------------------------------------------------------------------------------------


def climbed(erasure, delta, node=1, mean=None, counts=None):
    arrays = erasure.situation.layout.to_arrays(erasure.situation.vector + delta)
    records = {"arrays": arrays, "metrics": MetricRecord({"num-examples": 10})}
    if mean is not None:
        records[CONTRIBUTIONS] = ConfigRecord({"mean": mean})
    if counts is not None:
        records[COUNTS] = ConfigRecord(counts)
    return reply(RecordDict(records), node)


def test_soul_mixes_the_bounded_model_in_and_silences_by_contributions():
    erasure = make()
    step = 0.5 * harmless(erasure)
    mean = [0.0] * UNITS
    mean[6] = 3.0
    found = erasure.erase([climbed(erasure, step, mean=mean)], 3)
    torch.testing.assert_close(found.vector, erasure.situation.vector + 0.8 * step)
    keep = erasure.situation.layout.unflatten(found.keep)
    assert not bool(keep["hidden.bias"][6])
    assert erasure.memory.notes == []


def test_who_was_not_asked_cannot_unlearn_for_another():
    erasure = make()
    found = erasure.erase([climbed(erasure, 0.5 * harmless(erasure), node=2, mean=[1.0] * 8)], 3)
    assert torch.equal(found.vector, erasure.situation.vector)
    assert found.keep is None
    assert "client 1 did not unlearn" in erasure.memory.notes
    assert "round 3: no requester sent contributions" in erasure.memory.notes


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("kind", [SoulMethod, PlainAscent])
def test_the_model_stays_finite_whatever_is_sent(kind, value):
    erasure = make(kind)
    hostile = torch.full_like(erasure.situation.vector, value)
    found = erasure.erase([climbed(erasure, hostile, mean=[1.0] * UNITS)], 3)
    assert bool(torch.isfinite(found.vector).all())


def test_error_replies_are_no_answers():
    erasure = make()
    question = Message(RecordDict(), dst_node_id=1, message_type=ASCEND)
    found = erasure.erase([Message(Error(0, "gone"), reply_to=question)], 3)
    assert torch.equal(found.vector, erasure.situation.vector)
    assert erasure.loads([Message(Error(0, "gone"), reply_to=question)]) == []


def test_a_method_whose_model_is_not_finite_changes_nothing():
    erasure = make(FineTune)
    erasure.method.erase = lambda known: Erased(known.vector * math.nan, known.vector > 0)
    found = erasure.erase([], 5)
    assert torch.equal(found.vector, erasure.situation.vector)
    assert erasure.memory.notes == ["round 5: the erased model was not finite"]


# --- costs --------------------------------------------------------------------------------------

PARAMETERS = FEATURES * UNITS + UNITS + UNITS * CLASSES + CLASSES


def test_an_ascent_costs_the_model_both_ways_the_held_out_rows_and_the_contributions():
    erasure = make()
    step = harmless(erasure)
    (load,) = erasure.loads([climbed(erasure, step, counts={"trained": 70, "forwarded": 24})])
    assert (load.client, load.trained, load.forwarded) == (1, 70.0, 24.0)
    assert load.down == 4 * (PARAMETERS + 12 * FEATURES)
    assert load.up == 4 * PARAMETERS + 8 * UNITS  # contributions travel in double precision


def test_measuring_costs_the_model_down_and_the_sums_up():
    erasure = make(ClassPruning)
    sums = {"forget-sums": torch.zeros(CLASSES, UNITS), "forget-counts": torch.zeros(CLASSES)}
    content = RecordDict(
        {"activations": to_record(sums), COUNTS: ConfigRecord({"trained": 0, "forwarded": 30})}
    )
    (load,) = erasure.loads([reply(content, 2, ACTIVATIONS)])
    assert (load.trained, load.forwarded) == (0.0, 30.0)
    assert (load.down, load.up) == (4 * PARAMETERS, 4 * (CLASSES * UNITS + CLASSES))


def test_a_client_asked_two_things_gets_the_model_once():
    erasure = make(PlainAscent)
    sums = {"forget-sums": torch.zeros(CLASSES, UNITS)}
    content = RecordDict({"activations": to_record(sums)})
    (load,) = erasure.loads([climbed(erasure, harmless(erasure)), reply(content, 1, ACTIVATIONS)])
    assert load.down == 4 * PARAMETERS
    assert load.up == 4 * PARAMETERS + 4 * CLASSES * UNITS
