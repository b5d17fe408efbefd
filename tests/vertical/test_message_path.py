from __future__ import annotations

import math

import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from safetensors.torch import load_file
from vertical_worlds import config, run

from fedguard.flower_app import make_client_app
from fedguard.grids.base import WrappedGrid
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.vertical import messages
from fedguard.vertical.party_grid import PartyGrid


def party_grid(settings):
    return PartyGrid(make_client_app(settings.model_dump_json()), settings.clients)


CASES = [
    {"strategy": "opus-vfl"},
    {"strategy": {"name": "opus-vfl", "loo": "copies", "gradient_noise": 0.5}},
    {"strategy": "vfl-czofo"},
    {"strategy": "bpf"},
    {"strategy": "vfl", "attack": "label-inference-active"},
    {"strategy": "vfl", "attack": {"name": "vertical-backdoor", "target": 3}},
]


@pytest.mark.parametrize("values", CASES, ids=lambda v: str(v.values())[13:60])
def test_messages_and_fused_engine_agree_bit_for_bit(tmp_path, values):
    values = {"rounds": 2, "batch_size": 256, **values}
    fused, rounds, records = run(tmp_path / "fused", **values)
    settings = config(**values)
    sent = Simulation(settings).run(tmp_path / "sent", grid=party_grid(settings))
    assert sent["model_sha256"] == fused["model_sha256"]
    assert read_jsonl(tmp_path / "sent" / "clients.jsonl") == records
    assert sent["attack_result"] == fused["attack_result"]
    again = read_jsonl(tmp_path / "sent" / "rounds.jsonl")
    for one, other in zip(rounds, again, strict=True):
        assert one["accuracy"] == other["accuracy"]
        assert one["train_loss"] == other["train_loss"]


class Shuffled(WrappedGrid):
    """Replies arrive in reverse order."""

    def send_and_receive(self, messages, *, timeout=None):
        return list(self.inner.send_and_receive(messages, timeout=timeout))[::-1]


def test_the_order_of_replies_changes_nothing(tmp_path):
    settings = config(rounds=1, batch_size=256)
    one = Simulation(settings).run(tmp_path / "a", grid=party_grid(settings))
    other = Simulation(settings).run(tmp_path / "b", grid=Shuffled(party_grid(settings)))
    assert one["model_sha256"] == other["model_sha256"]


class Failing(WrappedGrid):
    """Parties 1 to 4 break in a way each; party 0 and the last rounds are sound."""

    def send_and_receive(self, questions, *, timeout=None):
        replies = []
        for reply in self.inner.send_and_receive(questions, timeout=timeout):
            asked = next(
                q for q in questions if q.metadata.dst_node_id == reply.metadata.src_node_id
            )
            replies += self._spoilt(reply, asked)
        return replies

    @staticmethod
    def _spoilt(reply, asked):
        party = reply.metadata.src_node_id
        if asked.metadata.message_type != "train.embed":
            return [reply]
        if party == 1:
            return []
        if party == 4:
            return [Message(Error(0, "out of memory"), reply_to=asked)]
        if party in (2, 3):
            block = messages.tensors_of(reply)["embedding"]
            if party == 2:
                block[0, 0] = math.nan
            else:
                block = block[:-1]
            body = RecordDict({messages.TENSORS: ArrayRecord({"embedding": Array(block.numpy())})})
            return [Message(body, reply_to=asked)]
        return [reply]


@pytest.mark.parametrize("strategy", ["vfl", "opus-vfl", "vfl-noisy-sparse"])
def test_broken_parties_are_zeroed_and_reported_and_training_goes_on(tmp_path, strategy):
    settings = config(strategy=strategy, rounds=2, batch_size=128)
    summary = Simulation(settings).run(tmp_path, grid=Failing(party_grid(settings)))
    assert summary["final"]["malformed"] == 4
    assert math.isfinite(summary["final"]["loss"])
    records = {r["client"]: r for r in read_jsonl(tmp_path / "clients.jsonl") if r["round"] == 2}
    words = {1: "no reply", 2: "NaN", 3: "expected (128, 32)", 4: "out of memory"}
    for party, word in words.items():
        assert not records[party]["accepted"]
        assert word in records[party]["reason"]
        assert "12 of 12 batches" in records[party]["reason"]
        assert not records[party]["tokens"]
    assert records[0]["accepted"]
    for tensor in load_file(tmp_path / "model.safetensors").values():
        assert torch.isfinite(tensor).all()
    # party 0 alone still learns
    assert summary["final"]["train_loss"] < read_jsonl(tmp_path / "rounds.jsonl")[0]["loss"]


class Once(Failing):
    """Only the first batch's embeddings are lost."""

    def __init__(self, inner):
        super().__init__(inner)
        self.left = 1

    def send_and_receive(self, questions, *, timeout=None):
        questions = list(questions)
        if questions and questions[0].metadata.message_type == "train.embed" and self.left:
            self.left -= 1
            return super().send_and_receive(questions, timeout=timeout)
        return self.inner.send_and_receive(questions, timeout=timeout)


def test_a_party_that_misses_one_batch_is_paid_for_the_others(tmp_path):
    settings = config(rounds=1, batch_size=128)
    Simulation(settings).run(tmp_path, grid=Once(party_grid(settings)))
    records = read_jsonl(tmp_path / "clients.jsonl")
    assert sum(r["tokens"] or 0 for r in records) == 400
    assert all("1 of 12 batches" in records[p]["reason"] for p in (1, 2, 3, 4))


def test_a_real_party_does_not_show_its_model(tmp_path):
    app = make_client_app(None)
    settings = config()
    grid = party_grid(settings)
    grid.app = app
    question = Message(messages.content(), dst_node_id=1, message_type="query.state")
    with pytest.raises(ValueError, match="state"):
        grid.send_and_receive([question])


def test_features_never_travel(tmp_path):
    """No reply holds as many numbers per row as a party has features, or a bottom's weights."""
    seen = set()

    class Watching(WrappedGrid):
        def send_and_receive(self, questions, *, timeout=None):
            questions = list(questions)
            replies = list(self.inner.send_and_receive(questions, timeout=timeout))
            for question, reply in zip(questions, replies, strict=True):
                for name, tensor in messages.tensors_of(reply).items():
                    if not question.metadata.message_type.startswith("query"):
                        seen.add((question.metadata.message_type, name, tensor.shape[1]))
            return replies

    settings = config(rounds=1, batch_size=256)
    Simulation(settings).run(tmp_path, grid=Watching(party_grid(settings)))
    assert seen == {("train.embed", "embedding", 32), ("evaluate.embed", "embedding", 32)}
