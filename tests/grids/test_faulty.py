from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from safetensors.torch import load_file

from fedguard import registry
from fedguard.config import Faults, parse
from fedguard.errors import ConfigurationError, RunError
from fedguard.grids.base import WrappedGrid
from fedguard.grids.faulty import CORRUPTIONS, Fate, FaultyGrid
from fedguard.grids.inprocess import InProcessGrid
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.updates import ClientUpdates, StackedReplies

CLIENTS = 40
SMALL = {
    "clients": 10,
    "malicious": 0.2,
    "rounds": 4,
    "local_epochs": 1,
    "partition": "iid",
    "server_samples": 40,
}
EVERYTHING = {"dropout": 0.2, "straggle": 0.3, "delay": 0.3, "corrupt": 0.3, "duplicate": 0.3}


class PlainMessages(WrappedGrid):
    """Hands replies on without their matrix, as a remote grid does."""

    def send_and_receive(self, messages, *, timeout=None):
        replies = list(self.inner.send_and_receive(messages, timeout=timeout))
        for reply in replies:
            assert reply.content
        return replies


class Listener(WrappedGrid):
    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        self.asked = [message.metadata.dst_node_id for message in messages]
        return self.inner.send_and_receive(messages, timeout=timeout)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    values = {"clients": CLIENTS, "attack": "none", "partition": "iid", "local_epochs": 1}
    return Simulation(parse(values))


def instructions(simulation, server_round=1, nodes=range(CLIENTS)) -> list[Message]:
    record = RecordDict(
        {
            "arrays": ArrayRecord(simulation.server_model.module.state_dict()),
            "config": ConfigRecord({"server-round": server_round}),
        }
    )
    return [Message(record, dst_node_id=node, message_type="train") for node in nodes]


def received(simulation, grid, server_round=1, nodes=range(CLIENTS)) -> ClientUpdates:
    layout = simulation.trainer.layout
    start = layout.flatten(simulation.server_model.module.state_dict())
    replies = grid.send_and_receive(instructions(simulation, server_round, nodes))
    return ClientUpdates.from_replies(replies, start, layout, expected=nodes)


class TestFate:
    def test_what_happens_is_as_frequent_as_configured(self):
        faults = Faults(dropout=0.3, straggle=0.2, delay=0.1, corrupt=0.4, duplicate=0.25)
        draws = [Fate.draw(faults, 0, r, c) for r in range(60) for c in range(50)]
        shares = {
            0.3: sum(f.dropout for f in draws),
            0.2: sum(f.seconds is not None for f in draws),
            0.1: sum(f.delay > 0 for f in draws),
            0.4: sum(f.corruption is not None for f in draws),
            0.25: sum(f.duplicate for f in draws),
        }
        for rate, count in shares.items():
            # Five standard deviations of a binomial share over 3,000 draws.
            assert abs(count / 3000 - rate) < 5 * math.sqrt(rate * (1 - rate) / 3000)
        kinds = Counter(f.corruption for f in draws if f.corruption)
        assert set(kinds) == set(CORRUPTIONS)

    def test_half_of_the_slow_miss_a_deadline_at_their_median(self):
        faults = Faults(straggle=1.0, straggle_seconds=30, deadline=30)
        late = [Fate.draw(faults, 0, r, c).late for r in range(40) for c in range(25)]
        assert 0.42 < sum(late) / 1000 < 0.58

    def test_one_rate_does_not_move_another_fault(self):
        for client in range(50):
            plain = Fate.draw(Faults(corrupt=0.5), 3, 7, client)
            mixed = Fate.draw(Faults(corrupt=0.5, dropout=0.5, delay=0.3), 3, 7, client)
            assert plain.corruption == mixed.corruption
            assert plain.places == mixed.places


class TestReplies:
    def test_with_and_without_the_matrix_the_server_sees_the_same(self, simulation):
        faults = Faults(**EVERYTHING)
        inner = InProcessGrid(simulation.trainer)
        for server_round in (1, 2, 3):
            fast = received(simulation, FaultyGrid(inner, faults, 5), server_round)
            slow = received(simulation, FaultyGrid(PlainMessages(inner), faults, 5), server_round)
            assert fast.node_ids == slow.node_ids
            assert fast.remarks == slow.remarks
            assert torch.equal(fast.num_examples, slow.num_examples)
            torch.testing.assert_close(fast.deltas, slow.deltas, atol=1e-6, rtol=1e-5)
            assert fast.malformed.keys() == slow.malformed.keys()
            for node, reason in slow.malformed.items():
                assert fast.malformed[node].removeprefix("error reply: ") == reason

    def test_every_corruption_is_set_aside_for_its_own_reason(self, simulation):
        grid = FaultyGrid(InProcessGrid(simulation.trainer), Faults(corrupt=1.0), 0)
        words = {
            "nan": "NaN",
            "infinity": "infinite",
            "shape": "expected (",
            "missing": "missing array",
            "examples": "num-examples of",
        }
        seen = set()
        found = received(simulation, grid)
        for node in range(CLIENTS):
            kind = Fate.draw(grid.faults, 0, 1, node).corruption
            assert grid.truth[node] == f"corrupt: {kind}"
            seen.add(kind)
            if kind in words:
                assert words[kind] in found.malformed[node]
        assert seen == set(CORRUPTIONS)
        assert torch.isfinite(found.deltas).all()

    def test_flipped_bits_change_eight_values_at_most(self, simulation):
        inner = InProcessGrid(simulation.trainer)
        whole = received(simulation, inner)
        grid = FaultyGrid(inner, Faults(corrupt=1.0), 0)
        found = received(simulation, grid)
        flipped = [n for n in found.node_ids if grid.truth[n] == "corrupt: bits"]
        assert flipped
        for node in flipped:
            after = found.deltas[found.node_ids.index(node)]
            before = whole.deltas[whole.node_ids.index(node)]
            assert 1 <= int((after != before).sum()) <= 8

    def test_a_spoilt_reply_reads_as_its_row_says(self, simulation):
        grid = FaultyGrid(InProcessGrid(simulation.trainer), Faults(**EVERYTHING), 1)
        replies = grid.send_and_receive(instructions(simulation))
        assert isinstance(replies, StackedReplies)
        layout = simulation.trainer.layout
        start = layout.flatten(simulation.server_model.module.state_dict())
        for row in range(len(replies.deltas)):
            reply = replies[row]
            if reply.has_error():
                continue
            vector = layout.vector_from_arrays(next(iter(reply.content.array_records.values())))
            torch.testing.assert_close(vector, start + replies.deltas[row], equal_nan=True)

    def test_no_message_is_built_because_of_faults(self, simulation):
        faults = Faults(dropout=0.2, duplicate=0.2, straggle=0.2, delay=0.2, corrupt=0.2)
        replies = FaultyGrid(InProcessGrid(simulation.trainer), faults, 1).send_and_receive(
            instructions(simulation)
        )
        assert len(replies) > 10
        assert all("_build" in vars(reply) or reply.has_error() for reply in replies)

    def test_who_is_down_is_not_asked(self, simulation):
        listener = Listener(InProcessGrid(simulation.trainer))
        grid = FaultyGrid(listener, Faults(dropout=0.5), 0)
        found = received(simulation, grid)
        down = {node for node, words in grid.truth.items() if words == "dropout"}
        assert 5 < len(down) < 35
        assert set(listener.asked) == set(range(CLIENTS)) - down == set(found.node_ids)
        assert {node for node, why in found.malformed.items() if why == "no reply"} == down

    def test_a_second_copy_does_not_count(self, simulation):
        inner = InProcessGrid(simulation.trainer)
        grid = FaultyGrid(inner, Faults(duplicate=0.5), 0)
        found, plain = received(simulation, grid), received(simulation, inner)
        assert torch.equal(found.deltas, plain.deltas)
        assert torch.equal(found.num_examples, plain.num_examples)
        doubled = {node for node, words in grid.truth.items() if words == "duplicate"}
        assert found.remarks.keys() == doubled != set()

    def test_a_client_meets_its_fate_whoever_else_is_asked(self, simulation):
        inner = InProcessGrid(simulation.trainer)
        alone = FaultyGrid(inner, Faults(**EVERYTHING), 2)
        received(simulation, alone, nodes=[11, 30])
        among = FaultyGrid(inner, Faults(**EVERYTHING), 2)
        received(simulation, among)
        for node in (11, 30):
            assert alone.truth.get(node) == among.truth.get(node)

    def test_evaluation_passes_unharmed(self, simulation):
        grid = FaultyGrid(InProcessGrid(simulation.trainer), Faults(dropout=1.0), 0)
        messages = [
            Message(message.content, dst_node_id=node, message_type="evaluate")
            for node, message in enumerate(instructions(simulation, nodes=range(3)))
        ]
        assert len(list(grid.send_and_receive(messages))) == 3


class TestDelays:
    def test_a_delayed_reply_arrives_later_and_is_set_aside(self, simulation):
        grid = FaultyGrid(InProcessGrid(simulation.trainer), Faults(delay=0.5), 0)
        received(simulation, grid, 1)
        away = {node for node, words in grid.truth.items() if words == "delayed by 1 round"}
        assert away
        found = received(simulation, grid, 2)
        late = {node for node, words in grid.truth.items() if "late reply to round 1" in words}
        assert late == away
        assert grid.counts["late"] == len(away)
        assert len(found) + len(found.malformed) == CLIENTS

    def test_what_is_in_flight_survives_a_restart(self, simulation):
        faults = Faults(delay=0.5, delay_rounds=3)
        whole = FaultyGrid(InProcessGrid(simulation.trainer), faults, 0)
        for server_round in (1, 2):
            received(simulation, whole, server_round, range(8))
        cut = FaultyGrid(InProcessGrid(simulation.trainer), faults, 0)
        cut.load_state(whole.state())
        for server_round in (3, 4, 5, 6):
            for grid in (whole, cut):
                received(simulation, grid, server_round, range(8))
            assert whole.truth == cut.truth
            assert whole.counts == cut.counts


def run(out, **values) -> dict:
    return Simulation(parse({**SMALL, **values})).run(out)


class TestRuns:
    def test_no_faults_are_no_change(self, tmp_path):
        plain = run(tmp_path / "a")
        zero = run(tmp_path / "b", faults={"deadline": 5.0})
        assert plain["model_sha256"] == zero["model_sha256"]
        assert "fault" not in read_jsonl(tmp_path / "b" / "clients.jsonl")[0]

    def test_the_truth_is_in_the_records_and_not_in_what_the_server_says(self, tmp_path):
        run(tmp_path, faults={"dropout": 0.5})
        records = read_jsonl(tmp_path / "clients.jsonl")
        down = [record for record in records if record["fault"] == "dropout"]
        assert down
        assert {record["reason"] for record in down} == {"no reply"}
        assert all(not record["accepted"] for record in down)
        for record in read_jsonl(tmp_path / "rounds.jsonl")[1:]:
            mine = [one for one in down if one["round"] == record["round"]]
            assert record["faults"].get("dropout", 0) == len(mine)

    @pytest.mark.parametrize("strategy", ["geminiguard", "flwr.serverapp.strategy:FedAvg"])
    def test_a_round_without_a_usable_reply_leaves_the_model_as_it_is(self, tmp_path, strategy):
        with pytest.raises(RunError, match="no reply of any client was usable"):
            run(tmp_path, strategy=strategy, faults={"dropout": 1.0})
        rounds = read_jsonl(tmp_path / "rounds.jsonl")
        assert [record["round"] for record in rounds] == [0, 1, 2, 3, 4]
        assert len({record["loss"] for record in rounds}) == 1
        assert len(read_jsonl(tmp_path / "clients.jsonl")) == 40
        assert rounds[-1]["faults"] == {"dropout": 10}

    @pytest.mark.parametrize(
        ("strategy", "attack"),
        [("geminiguard", "neurotoxin"), ("fldetector", "adaptive-ipm"), ("median", "a3fl")],
    )
    def test_resuming_repeats_every_fault(self, tmp_path, strategy, attack):
        attack = {"name": attack, "steps": 2, "size": 2} if attack == "a3fl" else attack
        values = {
            "strategy": strategy,
            "attack": attack,
            "attack_rounds": {"probability": 0.6},
            "faults": {**EVERYTHING, "delay_rounds": 3},
            "rounds": 5,
        }
        whole = run(tmp_path / "whole", **values)

        class StopError(Exception):
            pass

        def stop(record):
            if record["round"] == 3:
                raise StopError

        with pytest.raises(StopError):
            Simulation(parse({**SMALL, **values})).run(tmp_path / "cut", on_round=stop)
        resumed = Simulation(parse({**SMALL, **values})).run(tmp_path / "cut", resume=True)
        assert resumed["model_sha256"] == whole["model_sha256"]
        for name in ("rounds.jsonl", "clients.jsonl"):
            before, after = (read_jsonl(tmp_path / d / name) for d in ("whole", "cut"))
            for record in (*before, *after):
                record.pop("seconds", None)
            assert before == after

    @pytest.mark.parametrize("strategy", registry.names("strategy"))
    def test_no_network_breaks_any_strategy(self, tmp_path, strategy):
        values = {"strategy": strategy, "rounds": 2, "clients": 12, "server_samples": 60}
        if strategy == "bnguard":  # which refuses a network without BatchNorm
            values["model"] = "conv-bn"
        faults = {"dropout": 0.3, "corrupt": 0.1, "duplicate": 0.1, "delay": 0.1}
        run(tmp_path, faults=faults, **values)
        rounds = read_jsonl(tmp_path / "rounds.jsonl")
        assert len(rounds) == 3
        assert all(math.isfinite(record["loss"]) for record in rounds)
        for tensor in load_file(tmp_path / "model.safetensors").values():
            assert torch.isfinite(tensor).all()
        assert len(read_jsonl(tmp_path / "clients.jsonl")) == 24

    @pytest.mark.parametrize("strategy", ["secagg+", "xmkckks", "ckks"])
    def test_a_round_that_cannot_be_opened_closes_with_the_model_unchanged(
        self, tmp_path, strategy
    ):
        pytest.importorskip("tenseal")
        run(tmp_path, strategy=strategy, faults={"dropout": 0.65}, model="logistic", rounds=6)
        rounds = read_jsonl(tmp_path / "rounds.jsonl")
        assert len(rounds) == 7
        lost = [record for record in rounds[1:] if record["accepted"] == 0]
        won = [record for record in rounds[1:] if record["accepted"] > 0]
        assert lost
        assert won
        for record in lost:
            assert record["loss"] == rounds[record["round"] - 1]["loss"]
        reasons = {
            one["reason"]
            for one in read_jsonl(tmp_path / "clients.jsonl")
            if one["round"] == lost[0]["round"]
        }
        assert all(reasons)


class TestConfiguration:
    @pytest.mark.parametrize(
        ("faults", "words"),
        [
            ({"dropout": 1.5}, "faults.dropout: 1.5"),
            ({"drop": 0.1}, "faults.drop: 0.1"),
            ({"drop": 0.1}, "did you mean 'dropout'?"),
            ({"deadline": 0}, "faults.deadline: 0"),
            ({"delay_rounds": 0.5}, "faults.delay_rounds: 0.5"),
            ("many", "faults: 'many'"),
        ],
    )
    def test_a_bad_rate_is_named(self, faults, words):
        with pytest.raises(ConfigurationError) as caught:
            parse({"faults": faults})
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
