from __future__ import annotations

import io
import math
import re

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from torch import nn

from fedguard.grids.identity import assume_server_identity
from fedguard.grids.messages import LazyReply
from fedguard.updates import ClientUpdates, ParameterLayout, StackedReplies, TensorArray

MODEL = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def instruction(node: int) -> Message:
    assume_server_identity()
    record = RecordDict({"config": ConfigRecord({"server-round": 1})})
    return Message(record, dst_node_id=node, message_type="train")


def reply(node: int, arrays: ArrayRecord | None, metrics: dict | None = None) -> Message:
    content = RecordDict()
    if arrays is not None:
        content["arrays"] = arrays
    content["metrics"] = MetricRecord({"num-examples": 10} if metrics is None else metrics)
    return Message(content, reply_to=instruction(node))


def model_arrays(shift: float = 0.0) -> ArrayRecord:
    state = {k: v + shift if v.is_floating_point() else v for k, v in MODEL.state_dict().items()}
    return ArrayRecord(state)


def stack(replies: list[Message], expected: range | None = None) -> ClientUpdates:
    layout = ParameterLayout.from_module(MODEL)
    start = layout.vector_from_arrays(model_arrays())
    return ClientUpdates.from_replies(replies, start, layout, expected=expected)


class TestParameterLayout:
    def test_trainable_parameters_come_first(self):
        layout = ParameterLayout.from_module(MODEL)
        assert layout.names[:4] == ("0.weight", "0.bias", "1.weight", "1.bias")
        assert set(layout.names[4:]) == {
            "1.running_mean",
            "1.running_var",
            "1.num_batches_tracked",
        }
        assert layout.num_trainable == 6 + 2 + 2 + 2
        assert layout.size == layout.num_trainable + 2 + 2 + 1

    def test_a_record_gives_the_layout_of_its_module(self):
        assert ParameterLayout.from_arrays(model_arrays()) == ParameterLayout.from_module(MODEL)

    def test_arrays_survive_the_way_through_a_vector(self):
        layout = ParameterLayout.from_module(MODEL)
        arrays = layout.to_arrays(layout.vector_from_arrays(model_arrays()))
        assert list(arrays) == list(MODEL.state_dict())
        for name, value in MODEL.state_dict().items():
            assert arrays[name].numpy().dtype == value.numpy().dtype
            np.testing.assert_array_equal(arrays[name].numpy(), value.numpy())

    def test_a_wrong_shape_is_refused(self):
        layout = ParameterLayout.from_module(nn.Linear(3, 2))
        with pytest.raises(ValueError, match="bias has shape"):
            layout.flatten({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)})


class TestTensorArray:
    def test_it_is_an_array_to_flower(self):
        values = np.arange(6, dtype=np.float32).reshape(2, 3)
        array = TensorArray(values)
        plain = Array(values)
        assert (array.dtype, array.shape, array.stype) == (plain.dtype, plain.shape, plain.stype)
        assert array.data == plain.data
        assert array.numpy() is values


class TestFromMatrix:
    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (math.nan, "NaN"),
            (math.inf, "infinite"),
            (-math.inf, "infinite"),
            (1e30, r"value of size 1\.0e\+30"),
        ],
    )
    def test_one_bad_coordinate_sets_the_row_aside(self, value, reason):
        deltas = torch.zeros(4, 7)
        deltas[2, 3] = value
        updates = ClientUpdates.from_matrix(deltas, node_ids=[5, 6, 7, 8])
        assert updates.node_ids == (5, 6, 8)
        assert len(updates.deltas) == 3
        assert list(updates.malformed) == [7]
        assert re.search(reason, updates.malformed[7])

    @pytest.mark.parametrize("claim", [1e18, 0, -5, math.nan, math.inf])
    def test_an_absurd_claim_sets_the_row_aside(self, claim):
        updates = ClientUpdates.from_matrix(torch.zeros(2, 3), num_examples=[10, claim])
        assert updates.node_ids == (0,)
        assert "num-examples" in updates.malformed[1]

    def test_sane_rows_are_not_copied(self):
        deltas = torch.randn(4, 7)
        assert ClientUpdates.from_matrix(deltas).deltas.data_ptr() == deltas.data_ptr()

    def test_float64_overflow_is_seen(self):
        deltas = torch.zeros(2, 3, dtype=torch.float64)
        deltas[1, 0] = 1e300
        assert ClientUpdates.from_matrix(deltas).node_ids == (0,)


class TestFromReplies:
    def test_deltas_are_model_minus_global_in_order_of_node_id(self):
        updates = stack([reply(4, model_arrays(0.5)), reply(2, model_arrays(0.25))])
        assert updates.node_ids == (2, 4)
        trainable = updates.trainable
        torch.testing.assert_close(trainable[0], torch.full_like(trainable[0], 0.25))
        torch.testing.assert_close(trainable[1], torch.full_like(trainable[1], 0.5))

    def test_every_kind_of_broken_reply_is_set_aside_with_a_reason(self):
        wrong_shape = model_arrays()
        wrong_shape["0.weight"] = Array(np.zeros((5, 5), dtype=np.float32))
        missing = model_arrays()
        del missing["0.bias"]
        extra = model_arrays()
        extra["more"] = Array(np.zeros(1, dtype=np.float32))
        text = model_arrays()
        text["0.bias"] = Array(np.array(["a", "b"]))
        garbage = model_arrays()
        garbage["0.bias"] = Array("float32", (2,), "numpy.ndarray", b"no array at all")
        pickled = model_arrays()
        pickled["0.bias"] = Array("float32", (2,), "torch.pickle", b"\x80\x04")
        liar = model_arrays()
        huge = np.lib.format.header_data_from_array_1_0(np.zeros(2, dtype=np.float32))
        huge["shape"] = (10**14,)
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, huge)
        liar["0.bias"] = Array("float32", (2,), "numpy.ndarray", buffer.getvalue())
        replies = [
            reply(0, model_arrays()),
            reply(1, wrong_shape),
            reply(2, missing),
            reply(3, extra),
            reply(4, text),
            reply(5, garbage),
            reply(6, pickled),
            reply(7, liar),
            reply(8, None),
            reply(9, model_arrays(), {"other": 1}),
            reply(10, model_arrays(), {"num-examples": [1, 2]}),
            reply(11, model_arrays(), {"num-examples": math.nan}),
            Message(Error(7, "out of memory"), reply_to=instruction(12)),
            reply(99, model_arrays()),
        ]
        updates = stack(replies, expected=range(14))
        assert updates.node_ids == (0,)
        assert set(updates.malformed) == {*range(1, 14), 99}
        for node, words in {
            1: "shape (5, 5)",
            2: "missing array '0.bias'",
            3: "unexpected array 'more'",
            8: "0 array records",
            9: "no num-examples",
            10: "is a list",
            12: "out of memory",
            13: "no reply",
            99: "not asked",
        }.items():
            assert words in updates.malformed[node]

    def test_a_second_reply_is_remarked_and_does_not_count(self):
        updates = stack([reply(1, model_arrays(1.0)), reply(1, model_arrays(9.0))])
        assert updates.node_ids == (1,)
        assert float(updates.trainable.max()) == pytest.approx(1.0)
        assert "more than one reply" in updates.remarks[1]

    def test_no_replies_at_all(self):
        updates = stack([], expected=range(2))
        assert len(updates) == 0
        assert updates.deltas.shape == (0, updates.layout.size)
        assert updates.malformed == {0: "no reply", 1: "no reply"}

    def test_stacked_replies_equal_plain_ones(self):
        layout = ParameterLayout.from_module(MODEL)
        start = layout.vector_from_arrays(model_arrays())
        deltas = torch.randn(3, layout.size)
        deltas[:, -1] = 0  # num_batches_tracked is a whole number
        questions = [instruction(node) for node in (2, 0, 1)]
        messages = [
            LazyReply(
                question,
                lambda row=row: RecordDict(
                    {
                        "arrays": layout.to_arrays(start + deltas[row]),
                        "metrics": MetricRecord({"num-examples": 10 + row}),
                    }
                ),
            )
            for row, question in enumerate(questions)
        ]
        claims = torch.tensor([10.0, 11.0, 12.0], dtype=torch.float64)
        fast = ClientUpdates.from_replies(
            StackedReplies(messages, deltas, claims, layout), start, layout
        )
        slow = ClientUpdates.from_replies(list(messages), start, layout)
        assert fast.node_ids == slow.node_ids == (0, 1, 2)
        torch.testing.assert_close(fast.num_examples, slow.num_examples)
        torch.testing.assert_close(fast.deltas, slow.deltas, atol=1e-6, rtol=1e-6)
