"""What a client does when it is told to forget, by message and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from unlearning_worlds import BAD, CLASSES, ROWS, federation, network, reply, request, trainer

from fedguard import registry
from fedguard.grids.inprocess import InProcessGrid
from fedguard.models.flat import FlatModel
from fedguard.randomness import generator
from fedguard.unlearning.attribution import contributions
from fedguard.unlearning.client import answer, instructed
from fedguard.unlearning.climbing import AscentSettings, ascend
from fedguard.unlearning.grid import UnlearningClients
from fedguard.unlearning.instructions import (
    ACTIVATIONS,
    ASCEND,
    CONTRIBUTIONS,
    COUNTS,
    RECORD,
    activations_content,
    ascend_content,
    from_record,
    rows_record,
)
from fedguard.unlearning.pruning import class_activations, prunable_layers
from fedguard.unlearning.rows import forgotten_rows


def start(made):
    return made.model.whole_vector()


def ask(content, client, kind):
    reply(RecordDict(), 1)  # makes sure of an identity
    return Message(content, dst_node_id=client, message_type=kind)


# --- which rows ---------------------------------------------------------------------------------


def test_everything_a_label_or_a_drawn_share():
    fed = federation()
    labels = fed.dataset.y_train[fed.shards[1]]
    assert forgotten_rows(fed, 1, None, None).tolist() == list(range(ROWS))
    assert forgotten_rows(fed, 1, 2, None).tolist() == (labels == 2).nonzero().flatten().tolist()
    share = forgotten_rows(fed, 1, None, 0.3)
    assert len(share) == len(share.unique()) == 9
    assert share.tolist() == sorted(share.tolist())
    assert torch.equal(share, forgotten_rows(fed, 1, None, 0.3))
    assert not torch.equal(share, forgotten_rows(fed, 0, None, 0.3))
    assert len(forgotten_rows(fed, 1, None, 0.001)) == 1


def test_labels_are_those_the_client_trains_with():
    fed = federation()
    assert forgotten_rows(fed, BAD, 1, None).tolist() == list(range(ROWS))
    assert forgotten_rows(fed, BAD, 0, None).tolist() == []


# --- training without them ----------------------------------------------------------------------


def told(client, *, epochs=None, **values):
    record = rows_record(request(client, **values), epochs)
    return client, ask(RecordDict({RECORD: record}), client, "train")


def test_rows_are_left_out_and_epochs_put_back():
    made = trainer()
    with instructed(made, [told(1, share=0.4, epochs=1)]):
        assert made.settings.local_epochs == 1
        kept = made.data_of(1, attacking=True)[1]
        assert len(kept) == ROWS - 12
    assert made.settings.local_epochs == 2
    # what is forgotten stays forgotten, whatever later instructions are about
    with instructed(made, [told(0, label=0)]):
        assert len(made.data_of(1, attacking=True)[1]) == ROWS - 12
        assert not (made.data_of(0, attacking=True)[1] == 0).any()
    plain = ask(RecordDict(), 1, "train")
    with instructed(made, [(1, plain)]):
        assert made.settings.local_epochs == 2


def test_settings_come_back_after_a_failure():
    made = trainer()
    with pytest.raises(RuntimeError), instructed(made, [told(1, share=0.4, epochs=1)]):
        raise RuntimeError
    assert made.settings.local_epochs == 2


def test_training_without_rows_is_training_on_the_others():
    made, other = trainer(), trainer()
    vector = start(made)
    gone = forgotten_rows(made.federation, 1, 2, None)
    with instructed(made, [told(1, label=2)]):
        found = torch.zeros_like(vector)
        assert made.train(1, 4, vector, found)[0] == ROWS - len(gone)
    kept = torch.ones(ROWS, dtype=torch.bool)
    kept[gone] = False
    shards = list(other.federation.shards)
    shards[1] = shards[1][kept]
    other.federation = replace(other.federation, shards=shards)
    expected = torch.zeros_like(vector)
    other.train(1, 4, vector, expected)
    torch.testing.assert_close(found, expected)


# --- climbing and measuring ---------------------------------------------------------------------

SETTINGS = AscentSettings(lr=0.2, epochs=2, batch_size=8, clip=1.0, radius=0.4, repair=1.0)


def climb(asked, *, held=True, contributed=True):
    made = trainer()
    server = made.federation.server_examples() if held else None
    arrays = made.layout.to_arrays(start(made))
    content = ascend_content(arrays, asked, SETTINGS, server, 7, contributions=contributed)
    message = ask(content, asked.client, ASCEND)
    return made, answer(message, made, asked.client), server


@pytest.mark.parametrize("held", [True, False])
def test_a_client_climbs_on_its_forgotten_rows_with_its_own_stream(held):
    made, found, server = climb(request(1, label=2), held=held)
    x, y = made.federation.shard(1, attacking=True)
    forget = (x[y == 2], y[y == 2])
    other = FlatModel(network())
    vector = FlatModel(network()).whole_vector()
    nothing = (torch.empty(0), torch.empty(0, dtype=torch.long))
    expected = ascend(
        other, vector, forget, server or nothing, SETTINGS, generator(5, 7, 1, "ascent")
    )
    model = made.layout.vector_from_arrays(found.content.array_records["arrays"])
    torch.testing.assert_close(model, vector + expected.delta)
    assert float(expected.delta.norm()) > 0.1
    counts = found.content.config_records[COUNTS]
    assert counts["trained"] == expected.trained + len(forget[1])  # contributions go back once
    assert counts["forwarded"] == expected.forwarded
    assert counts["stopped"] == expected.stopped
    assert found.content.metric_records["metrics"]["num-examples"] == len(forget[1])


def test_contributions_are_of_the_model_before_the_ascent():
    made, found, _ = climb(request(1, label=2))
    x, y = made.federation.shard(1, attacking=True)
    module = network()
    expected = contributions(module, prunable_layers(module), x[y == 2], y[y == 2])
    mean = torch.tensor(found.content.config_records[CONTRIBUTIONS]["mean"], dtype=torch.float64)
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-8)
    assert float(mean.max()) > 0
    _, silent, _ = climb(request(1, label=2), contributed=False)
    assert CONTRIBUTIONS not in silent.content


def test_a_client_without_such_rows_sends_the_model_back():
    made, found, _ = climb(request(BAD, label=0))
    model = made.layout.vector_from_arrays(found.content.array_records["arrays"])
    assert torch.equal(model, FlatModel(network()).whole_vector())
    assert found.content.config_records[COUNTS]["trained"] == 0


@pytest.mark.parametrize("asked", [None, request(1, share=0.5)])
def test_a_client_measures_both_sides_apart(asked):
    made = trainer()
    content = activations_content(made.layout.to_arrays(start(made)), asked, 7)
    found = answer(ask(content, 1, ACTIVATIONS), made, 1)
    tensors = from_record(found.content.array_records["activations"])
    x, y = made.federation.shard(1, attacking=True)
    gone = torch.zeros(ROWS, dtype=torch.bool)
    if asked is not None:
        gone[forgotten_rows(made.federation, 1, None, 0.5)] = True
    module = network()
    layers = prunable_layers(module)
    for side, rows in (("forget", gone), ("retain", ~gone)):
        sums, counts = class_activations(module, layers, x[rows], y[rows], CLASSES)
        torch.testing.assert_close(tensors[f"{side}-sums"], sums, rtol=1e-5, atol=1e-8)
        assert torch.equal(tensors[f"{side}-counts"], counts)
    record = found.content.config_records[COUNTS]
    assert (record["trained"], record["forwarded"]) == (0, ROWS)


# --- around a grid ------------------------------------------------------------------------------


def training(made, client, record=None):
    config = ConfigRecord({"server-round": 4})
    records = {"arrays": made.layout.to_arrays(start(made)), "config": config}
    if record is not None:
        records[RECORD] = record
    return ask(RecordDict(records), client, "train")


def test_the_training_side_answers_both_kinds_and_trains_the_rest():
    made = trainer()
    strategy = registry.create("strategy", "soul")
    grid = strategy.training_side(InProcessGrid(made), made)
    assert isinstance(grid, UnlearningClients)
    arrays = made.layout.to_arrays(start(made))
    climbs = ask(ascend_content(arrays, request(1), SETTINGS, None, 4), 1, ASCEND)
    half = rows_record(request(3, share=0.5))
    replies = list(grid.send_and_receive([climbs, training(made, 0), training(made, 3, half)]))
    examples = {
        r.metadata.src_node_id: r.content.metric_records["metrics"]["num-examples"] for r in replies
    }
    assert examples == {1: ROWS, 0: ROWS, 3: ROWS // 2}
    assert [r.metadata.message_type for r in replies].count(ASCEND) == 1
    assert set(grid.get_node_ids()) == {0, 1, 2, 3}
