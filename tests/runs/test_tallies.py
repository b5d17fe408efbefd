"""What became of every client is counted apart; a run nobody could use ends with exit code 1."""

from __future__ import annotations

import contextlib

import pytest
import torch
from cut_short import SMALL, run
from flwr.app import Array, ArrayRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedguard import simulate
from fedguard.config import parse
from fedguard.errors import RunError
from fedguard.grids.base import WrappedGrid
from fedguard.grids.history import History
from fedguard.grids.inprocess import InProcessGrid
from fedguard.records.writer import read_jsonl
from fedguard.runs.observed import Outcome
from fedguard.runs.simulation import Simulation
from fedguard.runs.tally import check_usable, outcomes, tally, total
from fedguard.updates import ClientUpdates, Verdict

FOREIGN = "flwr.serverapp.strategy:FedAvg"


def outcome(weights=(0.5, 0.0, 0.5), malformed=None, failed=None, asked=range(6)) -> Outcome:
    """Clients 0 to 2 sent updates; what others did is given."""
    updates = ClientUpdates.from_matrix(torch.ones(3, 2), malformed=malformed or {})
    verdict = Verdict(torch.ones(2), torch.tensor(weights, dtype=torch.float64))
    return Outcome(1, tuple(asked), updates, verdict, failed or {})


def test_every_clients_fate_by_hand():
    one = outcome(
        malformed={3: "num-examples of 0", 4: "no reply", 5: "num-examples of 0"},
        failed={4: "no reply"},
    )
    assert outcomes(one) == {
        0: "accepted",
        1: "rejected",
        2: "accepted",
        3: "set aside",
        4: "failed",
        5: "set aside",
    }
    found = tally(one, frozenset({1, 5}))
    assert {name: found[name] for name in ("asked", "answered", "failed", "set_aside")} == {
        "asked": 6,
        "answered": 5,
        "failed": 1,
        "set_aside": 2,
    }
    assert (found["accepted"], found["rejected"], found["malformed"]) == (2, 1, 3)
    assert found["reasons"] == {"num-examples of 0": 2, "no reply": 1}
    assert next(iter(found["reasons"])) == "num-examples of 0"
    # Both liars answered and were kept out; of the honest, 0 and 2 have updates and stayed in.
    assert found["true_positive_rate"] == 1.0
    assert found["false_positive_rate"] == 0.0


def test_rates_count_no_failure_and_no_honest_client_that_was_set_aside():
    one = outcome(weights=(0.0, 0.5, 0.5), malformed={3: "shape", 4: "no reply"}, asked=range(5))
    one.failed[4] = "no reply"
    found = tally(one, frozenset({1, 4}))
    assert found["true_positive_rate"] == 0.0  # liar 1 stayed in; liar 4 never answered
    assert found["false_positive_rate"] == 0.5  # of 0 and 2; client 3 was set aside


def test_a_foreign_strategy_says_nothing_so_that_nobody_is_called_rejected():
    found = tally(Outcome(1, (0, 1, 2), None, None, {1: "error reply: x"}), frozenset({0}))
    assert (found["accepted"], found["rejected"], found["failed"]) == (2, 0, 1)
    assert found["true_positive_rate"] is None
    assert tally(None, frozenset())["asked"] == 0


def test_totals_add_up_and_name_the_commonest_reason():
    rounds = [
        {"asked": 5, "failed": 2, "reasons": {"a": 1, "b": 1}},
        {"asked": 5, "failed": 2, "accepted": 1, "reasons": {"b": 2}},
        {"asked": 1},
    ]
    found = total(rounds)
    assert (found["asked"], found["failed"], found["accepted"], found["answered"]) == (11, 4, 1, 0)
    assert found["commonest_reason"] == "b"
    assert total([])["commonest_reason"] is None


@pytest.mark.parametrize(
    ("replies", "good"),
    [
        ({"asked": 4, "accepted": 1}, True),
        ({"asked": 4, "rejected": 1}, True),
        ({"asked": 0}, True),
        ({}, True),
        ({"asked": 4, "set_aside": 4, "commonest_reason": "shape"}, False),
        ({"asked": 4, "failed": 4}, False),
    ],
)
def test_a_run_without_one_usable_reply_is_none(replies, good):
    summary = {"rounds": 3, "replies": replies}
    if good:
        check_usable(summary)
        return
    with pytest.raises(RunError, match="in any of 3 rounds") as caught:
        check_usable(summary)
    assert (replies.get("commonest_reason") or "no reason") in str(caught.value)


app = ClientApp()


@app.train()
def misbehave(message: Message, context) -> Message:
    """Do what the run's configuration of the app says."""
    how = context.run_config.get("how")
    arrays = message.content["arrays"]
    if how == "raise":
        raise OSError("my disk is full")
    names = list(arrays)[1:] if how == "layer" else list(arrays)
    record = ArrayRecord({name: Array(arrays[name].numpy().copy()) for name in names})
    metrics = {"num-examples": 0 if how == "none" else 5}
    content = {"arrays": record, "metrics": MetricRecord(metrics)}
    if how == "two":
        content["more"] = record
    return Message(RecordDict(content), reply_to=message)


APP = f"{__name__}:app"


@pytest.mark.parametrize("strategy", ["fedavg", "krum", FOREIGN])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "my disk is full"),
        ("layer", "hidden.0.weight"),
        ("none", "num-examples of 0"),
        ("two", "rray"),
    ],
)
def test_clients_that_are_never_usable_end_the_run_with_the_reason(tmp_path, strategy, how, words):
    values = {"strategy": strategy, "client_app": {"name": APP, "how": how}, "rounds": 2}
    with pytest.raises(RunError) as caught:
        run(tmp_path, **values)
    text = str(caught.value)
    assert "\n" not in text
    if strategy != FOREIGN or how == "raise":
        assert "no reply of any client was usable" in text
        assert words in text
        field = "failed" if how == "raise" else "set_aside"
        for record in read_jsonl(tmp_path / "rounds.jsonl")[1:]:
            assert (record[field], record["accepted"]) == (6, 0)
    else:
        assert "FedAvg failed in round 1" in text
        assert words in text or how == "none"  # Flower divides by the sum of claims


def test_the_command_ends_with_exit_code_1(tmp_path, capsys):
    arguments = ["--strategy", "fedavg", "--attack", "none", "--rounds", "1", "--client-app", APP]
    code = simulate.main([*arguments, "--set", "client_app.how=raise", "--out", str(tmp_path)])
    assert code == 1
    assert "my disk is full" in capsys.readouterr().err


class Motley(WrappedGrid):
    """Client 0 fails, 1 never answers, 2 leaves a layer out, 3 claims no examples."""

    def send_and_receive(self, messages, *, timeout=None):
        asked = {m.metadata.dst_node_id: m for m in messages}
        out = []
        for reply in list(self.inner.send_and_receive(list(asked.values()), timeout=timeout)):
            node = reply.metadata.src_node_id
            if reply.metadata.message_type != MessageType.TRAIN or node > 3:
                out.append(reply)
            elif node == 0:
                out.append(Message(Error(7, "out of memory"), reply_to=asked[0]))
            elif node == 2:
                del reply.content["arrays"]["output.bias"]
                out.append(reply)
            elif node == 3:
                reply.content["metrics"]["num-examples"] = 0
                out.append(reply)
        return out


def test_each_round_counts_what_its_clients_did(tmp_path):
    simulation = Simulation(parse({**SMALL, "rounds": 2}))
    summary = simulation.run(tmp_path, grid=Motley(InProcessGrid(simulation.trainer)))
    for record in read_jsonl(tmp_path / "rounds.jsonl")[1:]:
        counts = {n: record[n] for n in ("asked", "answered", "failed", "set_aside", "accepted")}
        assert counts == {
            "asked": 6,
            "answered": 4,
            "failed": 2,
            "set_aside": 2,
            "accepted": 2,
        }
        assert sum(record["reasons"].values()) == 4
    assert summary["replies"]["asked"] == 12
    outcomes_told = {
        c["client"]: (c["outcome"], c["reason"]) for c in read_jsonl(tmp_path / "clients.jsonl")
    }
    assert outcomes_told[0] == ("failed", "error reply: out of memory")
    assert outcomes_told[1] == ("failed", "no reply")
    assert outcomes_told[2] == ("set aside", "missing array 'output.bias'")
    assert outcomes_told[3] == ("set aside", "num-examples of 0")
    assert outcomes_told[5] == ("accepted", None)


def test_history_tells_what_the_server_added_in_the_round_before():
    history = History()
    models = [torch.full((2,), value) for value in (1.0, 3.0, 7.0)]
    assert history.last_update(1, models[0]) is None
    history.note(1, models[0])
    history.note(1, models[2])  # the first word on a round holds
    assert history.last_update(2, models[1]).tolist() == [2.0, 2.0]
    history.note(2, models[1])
    assert history.last_update(3, models[2]).tolist() == [4.0, 4.0]
    assert history.last_update(2, models[1]).tolist() == [2.0, 2.0]
    history.note(3, models[2])
    assert history.last_update(2, models[1]) is None  # two rounds are kept
    assert history.last_update(5, models[2]) is None  # nobody noted round 4


class Remembering(InProcessGrid):
    """Writes down what clients are told about the last update."""

    def __init__(self, trainer, history):
        super().__init__(trainer, history=history)
        self.told = {}
        train = self.executor.train

        def spy(cohort, deltas):
            last = cohort.last_update
            self.told[cohort.server_round] = None if last is None else last.clone()
            return train(cohort, deltas)

        self.executor.train = spy


def test_the_last_update_after_resuming_is_that_of_the_uninterrupted_run(tmp_path):
    def go(out, *, resume=False, rounds=4, **values):
        simulation = Simulation(parse({**SMALL, "rounds": 4}))
        world = simulation.world
        seen = {}

        def stop(record):
            if record["round"] == rounds:
                raise KeyboardInterrupt

        original = world.open

        def opened(*arguments):
            original(*arguments)
            seen["grid"].history = world.layers.history

        seen["grid"] = Remembering(simulation.trainer, None)
        world.open = opened
        with contextlib.suppress(KeyboardInterrupt):
            simulation.run(out, resume=resume, on_round=stop, grid=seen["grid"])
        return seen["grid"].told

    whole = go(tmp_path / "whole", rounds=99)
    go(tmp_path / "cut", rounds=2)
    after = go(tmp_path / "cut", resume=True, rounds=99)
    assert (sorted(whole), sorted(after)) == ([1, 2, 3, 4], [3, 4])
    assert whole[1] is None
    for server_round in (3, 4):
        assert torch.equal(whole[server_round], after[server_round])
        assert float(whole[server_round].norm()) > 0.0
