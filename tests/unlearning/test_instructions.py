"""Instructions there and back, records that lie, and answers that claim nonsense."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from unlearning_worlds import reply, request

from fedguard.unlearning.climbing import AscentSettings
from fedguard.unlearning.instructions import (
    ACTIVATIONS,
    ASCEND,
    CONTRIBUTIONS,
    COUNTS,
    HELD_OUT,
    RECORD,
    activations_content,
    ascend_content,
    from_record,
    is_unlearning,
    named_epochs,
    named_rows,
    rows_record,
    to_record,
)
from fedguard.unlearning.replies import (
    array_bytes,
    claimed_rows,
    read_activations,
    read_contributions,
)

ARRAYS = to_record({"w": torch.arange(6.0).view(2, 3)})


@pytest.mark.parametrize(
    ("asked", "epochs", "rows"),
    [
        (None, None, (False, None, None)),
        (None, 3, (False, None, None)),
        (request(1), None, (True, None, None)),
        (request(1, label=0), 2, (True, 0, None)),
        (request(1, share=0.25), None, (True, None, 0.25)),
    ],
)
def test_what_is_named_is_read_back(asked, epochs, rows):
    content = RecordDict({RECORD: rows_record(asked, epochs)})
    assert named_rows(content) == rows
    assert named_epochs(content) == epochs


HOSTILE = [
    {},
    {"forgets": True, "label": "seven", "share": "half", "local-epochs": "many"},
    {"forgets": True, "label": 1.5, "share": 1, "local-epochs": 2.5},
    {"forgets": True, "label": [1, 2], "share": [0.5], "local-epochs": [1]},
    {"forgets": "", "label": 1},
]


@pytest.mark.parametrize("entries", HOSTILE)
def test_words_in_the_place_of_numbers_name_nothing(entries):
    content = RecordDict({RECORD: ConfigRecord(entries)})
    assert named_rows(content) == (bool(entries.get("forgets")), None, None)
    assert named_epochs(content) is None


def test_an_instruction_without_a_record_names_nothing():
    assert named_rows(RecordDict()) == (False, None, None)
    assert named_epochs(RecordDict()) is None


@pytest.mark.parametrize("held", [None, (torch.randn(4, 2), torch.arange(4))])
def test_an_ascent_instruction_holds_settings_model_and_rows(held):
    settings = AscentSettings(lr=0.3, radius=1.5, target=0.1, retries=2)
    content = ascend_content(ARRAYS, request(1, label=2), settings, held, 7, contributions=True)
    config = content.config_records["config"]
    assert AscentSettings.from_config(config) == settings
    assert (config["server-round"], config[CONTRIBUTIONS]) == (7, True)
    assert named_rows(content) == (True, 2, None)
    assert torch.equal(
        from_record(content.array_records["arrays"])["w"], torch.arange(6.0).view(2, 3)
    )
    if held is None:
        assert HELD_OUT not in content
    else:
        found = from_record(content.array_records[HELD_OUT])
        assert torch.equal(found["x"], held[0])
        assert torch.equal(found["y"], held[1])


def test_infinite_settings_survive_the_record():
    settings = AscentSettings()
    assert math.isinf(settings.radius)
    content = ascend_content(ARRAYS, request(1), settings, None, 1)
    assert AscentSettings.from_config(content.config_records["config"]) == settings


def test_the_two_kinds_of_unlearning_are_told_from_training():
    kinds = {ASCEND: True, ACTIVATIONS: True, "train": False, "evaluate": False}
    for kind, expected in kinds.items():
        reply(RecordDict(), 1)  # makes sure of an identity
        assert is_unlearning(Message(RecordDict(), dst_node_id=1, message_type=kind)) == expected
    content = activations_content(ARRAYS, request(2, share=0.5), 4)
    assert named_rows(content) == (True, None, 0.5)
    assert content.config_records["config"]["server-round"] == 4


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"trained": 10, "forwarded": 2.5}, (10.0, 2.5)),
        ({"trained": -1, "forwarded": math.nan}, (0.0, 0.0)),
        ({"trained": math.inf, "forwarded": "9"}, (0.0, 0.0)),
        ({"trained": [1, 2]}, (0.0, 0.0)),
        ({}, (0.0, 0.0)),
    ],
)
def test_counts_are_what_is_claimed_or_nothing(claims, expected):
    assert claimed_rows(reply(RecordDict({COUNTS: ConfigRecord(claims)}), 1)) == expected
    assert claimed_rows(reply(RecordDict(), 1)) == (0.0, 0.0)


def test_bytes_are_four_for_each_number_of_every_array():
    record = RecordDict({"a": ARRAYS, "b": to_record({"v": torch.zeros(7), "s": torch.zeros(())})})
    assert array_bytes(reply(record, 1)) == 4 * (6 + 7 + 1)
    assert array_bytes(reply(RecordDict(), 1)) == 0


@pytest.mark.parametrize(
    ("mean", "good"),
    [
        ([0.0, 1.0, 2.5], True),
        ([0, 1, 2], True),
        ([0.0, 0.0, 0.0], False),
        ([0.0, 1.0], False),
        ([0.0, 1.0, 2.0, 3.0], False),
        ([0.0, -1.0, 2.0], False),
        ([0.0, math.nan, 2.0], False),
        ([0.0, math.inf, 2.0], False),
        ([0.0, 1e16, 2.0], False),
        (["a", "b", "c"], False),
        ("abc", False),
        (1.0, False),
        ([], False),
    ],
)
def test_contributions_are_finite_and_one_per_unit(mean, good):
    message = reply(RecordDict({CONTRIBUTIONS: ConfigRecord({"mean": mean})}), 1)
    found = read_contributions(message, 3)
    assert (found is not None) == good
    if good:
        assert found.tolist() == [float(value) for value in mean]


def test_contributions_that_are_missing_are_none():
    assert read_contributions(reply(RecordDict(), 1), 3) is None
    assert read_contributions(reply(RecordDict({CONTRIBUTIONS: ConfigRecord({})}), 1), 3) is None


CLASSES, UNITS = 2, 3


def measured():
    shapes = {
        "forget-sums": (CLASSES, UNITS),
        "forget-counts": (CLASSES,),
        "retain-sums": (CLASSES, UNITS),
        "retain-counts": (CLASSES,),
    }
    return {name: torch.rand(shape) + 0.1 for name, shape in shapes.items()}


def test_activations_are_read_as_they_were_sent():
    tensors = measured()
    found = read_activations(reply(RecordDict({"activations": to_record(tensors)}), 1), 2, 3)
    for name, tensor in tensors.items():
        read = getattr(found, name.replace("-", "_"))
        assert read.dtype == torch.float64
        assert torch.equal(read, tensor.double())


@pytest.mark.parametrize("name", measured())
@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t * math.nan,
        lambda t: t * math.inf,
        lambda t: -t,
        lambda t: t * 1e16,
        lambda t: t[:1],
        lambda t: t[None],
        lambda t: None,
    ],
)
def test_one_tensor_that_makes_no_sense_spoils_the_answer(name, spoil):
    tensors = measured()
    spoilt = spoil(tensors.pop(name))
    if spoilt is not None:
        tensors[name] = spoilt
    message = reply(RecordDict({"activations": to_record(tensors)}), 1)
    assert read_activations(message, CLASSES, UNITS) is None


def test_an_answer_of_another_kind_is_none():
    assert read_activations(reply(RecordDict(), 1), CLASSES, UNITS) is None
    words = Array(np.array([["a"]]))
    record = ArrayRecord({**to_record(measured()), "forget-sums": words})
    assert read_activations(reply(RecordDict({"activations": record}), 1), 2, 3) is None
