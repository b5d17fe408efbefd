"""Repairs and audits in a run: when they are due, what they write; audits change nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from cut_short import SMALL, cut, lines, resume, run
from safetensors.torch import load_file

from fedguard.audits.base import Audit
from fedguard.config import parse
from fedguard.config.repair_times import RepairTimes
from fedguard.errors import ConfigurationError
from fedguard.repairs.base import Repair
from fedguard.runs.simulation import Simulation
from fedguard.traits import Traits


class Doubling(Repair):
    """Doubles every weight, so that its effect is known."""

    traits = Traits(server_data="labelled", server_model=True)

    def mend(self, tools, rng):
        with torch.no_grad():
            for value in tools.model.parameters():
                value.mul_(2.0)
        return {"factor": 2.0, "drawn": float(torch.rand(1, generator=rng))}


class Holding(Repair):
    """Sets an output's bias in the round in which it mends, and in all rounds after it."""

    def __init__(self) -> None:
        self.since = 0
        self.opened = 0

    def open(self, tools):
        self.opened = len(tools.y)

    def mend(self, tools, rng):
        self.since += 1
        self.hold(tools)
        return {"opened": self.opened}

    def hold(self, tools):
        if self.since:
            with torch.no_grad():
                list(tools.model.parameters())[-1][0] = 7.0
        return self.since > 0

    def state(self):
        return {"since": torch.tensor([self.since])}

    def load_state(self, state):
        self.since = int(state["since"])


class Weigher(Audit):
    """Tells the length of the global model; alarms from a round on; draws random numbers."""

    columns = True

    def __init__(self, *, alarm_from: int = 99) -> None:
        self.alarm_from = alarm_from
        self.looks: list[int] = []

    def due(self, server_round, rounds):
        return server_round >= 1

    def look(self, server_round, vector, rng):
        torch.rand(10)
        self.looks.append(server_round)
        self.scene.model.load(torch.zeros_like(vector))
        drawn = float(torch.rand(1, generator=rng))
        return {"length": float(vector.norm()), "drawn": drawn, "at": server_round}

    def alarm(self, figures):
        return figures["at"] >= self.alarm_from

    def finish(self):
        return {"looks": len(self.looks)}


DOUBLING, WEIGHER = f"{__name__}:Doubling", f"{__name__}:Weigher"
HOLDING = f"{__name__}:Holding"


def repaired(out):
    path = out / "repairs.jsonl"
    return [line["round"] for line in lines(path)] if path.exists() else []


@pytest.mark.parametrize(
    ("at", "rounds"), [("end", [4]), ("every:3", [3, 4]), ("every:2", [2, 4]), ("every:9", [4])]
)
def test_a_repair_runs_when_it_is_due(tmp_path, at, rounds):
    summary = run(tmp_path, repair=DOUBLING, repair_at=at)
    assert repaired(tmp_path) == rounds
    assert (summary["repair"], summary["repair_at"]) == (DOUBLING, at)
    for line in lines(tmp_path / "repairs.jsonl"):
        assert (line["repair"], line["factor"]) == (DOUBLING, 2.0)


def test_a_repair_at_the_end_changes_what_is_written_and_nothing_before(tmp_path):
    run(tmp_path / "plain")
    run(tmp_path / "mended", repair=DOUBLING)
    before, after = (load_file(tmp_path / d / "model.safetensors") for d in ("plain", "mended"))
    for name, value in before.items():
        assert torch.equal(after[name], 2.0 * value)
    first = [lines(tmp_path / d / "rounds.jsonl")[:4] for d in ("plain", "mended")]
    assert first[0] == first[1]


def test_the_mended_model_is_what_the_next_round_starts_from(tmp_path):
    run(tmp_path / "plain", rounds=2, lr=1e-12)
    run(tmp_path / "mended", rounds=2, lr=1e-12, repair=DOUBLING, repair_at="every:1")
    before, after = (load_file(tmp_path / d / "model.safetensors") for d in ("plain", "mended"))
    for name, value in before.items():
        torch.testing.assert_close(after[name], 4.0 * value, atol=1e-5, rtol=0)


class FirstBias(Audit):
    """Tells the first of the ten output biases of every round's model."""

    def due(self, server_round, rounds):
        return True

    def look(self, server_round, vector, rng):
        return {"first": float(vector[-10])}


def test_what_a_repair_did_is_kept_up_in_the_rounds_after_it_and_over_a_restart(tmp_path):
    values = {"rounds": 5, "repair": HOLDING, "repair_at": "every:3"}
    watched = {**values, "audit": f"{__name__}:FirstBias"}
    whole = run(tmp_path / "whole", **watched)
    firsts = [line["first"] for line in lines(tmp_path / "whole" / "audits.jsonl")]
    assert [first == 7.0 for first in firsts[-5:]] == [False, False, True, True, True]
    assert lines(tmp_path / "whole" / "repairs.jsonl")[0]["opened"] == SMALL["server_samples"]
    cut(tmp_path / "cut", after=3, **watched)
    resumed = resume(tmp_path / "cut", **watched)
    assert resumed["model_sha256"] == whole["model_sha256"]


def test_alarms_decide_where_they_are_asked_to(tmp_path):
    quiet = run(tmp_path / "quiet", audit=WEIGHER, repair=DOUBLING, repair_at="alarm")
    assert repaired(tmp_path / "quiet") == []
    loud = {"name": WEIGHER, "alarm_from": 3}
    run(tmp_path / "loud", audit=loud, repair=DOUBLING, repair_at="alarm")
    assert repaired(tmp_path / "loud") == [3, 4]
    assert quiet["audits"] == {WEIGHER: {"looks": 8}}
    with pytest.raises(ConfigurationError, match="alarm needs an audit"):
        parse({**SMALL, "repair": DOUBLING, "repair_at": "alarm"})


def test_an_audit_changes_no_bit_of_the_run(tmp_path):
    plain = run(tmp_path / "plain", strategy="geminiguard", clients=8)
    watched = run(tmp_path / "watched", strategy="geminiguard", clients=8, audit=WEIGHER)
    assert watched["model_sha256"] == plain["model_sha256"]
    assert watched["audits"] == {WEIGHER: {"looks": 4}}
    rounds = lines(tmp_path / "watched" / "rounds.jsonl")
    bare = [{k: v for k, v in r.items() if k not in ("length", "drawn", "at")} for r in rounds]
    assert bare == lines(tmp_path / "plain" / "rounds.jsonl")
    told = lines(tmp_path / "watched" / "audits.jsonl")
    assert [(line["round"], line["audit"]) for line in told] == [(t, WEIGHER) for t in (1, 2, 3, 4)]
    assert [line["length"] for line in told] == [r["length"] for r in rounds[1:]]
    assert len({line["drawn"] for line in told}) == 4


@pytest.mark.parametrize("values", [{}, {"strategy": "flwr.serverapp.strategy:FedAvg"}])
def test_a_run_that_stops_ends_with_the_same_model_and_the_same_lines(tmp_path, values):
    values = {
        **values,
        "rounds": 5,
        "repair": {"name": "finetune", "epochs": 1},
        "repair_at": "every:3",
        "audit": WEIGHER,
    }
    whole = run(tmp_path / "whole", **values)
    cut(tmp_path / "cut", after=3, **values)
    for name in ("repairs.jsonl", "audits.jsonl"):  # a crash may leave what no checkpoint knows
        with (tmp_path / "cut" / name).open("a") as file:
            file.write(json.dumps({"round": 4, "left": "over"}) + "\n" + '{"round": 4, "cu')
    resumed = resume(tmp_path / "cut", **values)
    assert resumed["model_sha256"] == whole["model_sha256"]
    for name in ("repairs.jsonl", "audits.jsonl", "rounds.jsonl"):
        assert lines(tmp_path / "cut" / name) == lines(tmp_path / "whole" / name)
    assert repaired(tmp_path / "cut") == [3, 5]


def test_a_run_that_begins_anew_takes_old_lines_away(tmp_path):
    run(tmp_path, rounds=2, repair=DOUBLING, audit=WEIGHER)
    run(tmp_path, rounds=1, repair=DOUBLING, audit=WEIGHER)
    assert repaired(tmp_path) == [1]
    assert len(lines(tmp_path / "audits.jsonl")) == 1


@pytest.mark.parametrize("strategy", ["fedavg", "flwr.serverapp.strategy:FedAvg"])
def test_finetuning_lowers_the_servers_loss_behind_any_strategy(tmp_path, strategy):
    run(tmp_path, strategy=strategy, rounds=1, repair={"name": "finetune", "lr": 0.05})
    (line,) = lines(tmp_path / "repairs.jsonl")
    assert line["loss_after"] < 0.9 * line["loss_before"]
    assert line["moved"] > 0.0


@pytest.mark.parametrize("kind", ["repair", "audit"])
def test_a_part_that_needs_server_data_is_refused_where_there_are_none(kind):
    with pytest.raises(ConfigurationError, match="server_samples: 0") as caught:
        Simulation(parse({**SMALL, "server_samples": 0, kind: f"{__name__}:Needy{kind.title()}"}))
    assert f"with {kind}" in str(caught.value)


class NeedyRepair(Doubling):
    pass


class NeedyAudit(Weigher):
    traits = Traits(server_data="unlabelled")


@pytest.mark.parametrize("kind", ["repair", "audit", "training"])
def test_a_class_of_another_kind_is_refused(kind):
    with pytest.raises(ConfigurationError, match=f"{kind}: 'builtins:dict'"):
        Simulation(parse({**SMALL, kind: "builtins:dict"}))


@pytest.mark.parametrize(
    "text", ["", "every:0", "every:-1", "every", "every:x", "End", "end:2", "alarm:1"]
)
def test_times_that_cannot_be_are_refused(text):
    with pytest.raises(ConfigurationError, match="repair_at"):
        RepairTimes(text)


def test_times_by_hand():
    def due(text, alarmed=False):
        times = RepairTimes(text)
        return [t for t in range(1, 8) if times.due(t, 7, alarmed=alarmed)]

    assert due("end") == [7]
    assert due("every:3") == [3, 6, 7]
    assert due("every:1") == [1, 2, 3, 4, 5, 6, 7]
    assert due("alarm") == []
    assert due("alarm", alarmed=True) == [1, 2, 3, 4, 5, 6, 7]


def test_an_audit_looks_at_the_last_round_unless_it_says_otherwise():
    class Plain(Audit):
        def look(self, server_round, vector, rng):
            return {}

    audit = Plain()
    assert [t for t in range(1, 5) if audit.due(t, 4)] == [4]
    assert (audit.alarm({}), audit.finish(), audit.columns) == (False, {}, False)
    audit.open(SimpleNamespace(rounds_done=3))
    assert audit.scene.rounds_done == 3


@pytest.mark.parametrize("name", ["rnp", "nad", "super-finetune", "fine-pruning"])
def test_every_repair_goes_on_after_a_crash_as_if_nothing_had_happened(tmp_path, name):
    forced = {"confidence": 0.0} if name == "rnp" else {}
    values = {"rounds": 5, "repair": {"name": name, **forced}, "repair_at": "every:3"}
    whole = run(tmp_path / "whole", **values)
    cut(tmp_path / "cut", after=3, **values)
    assert resume(tmp_path / "cut", **values)["model_sha256"] == whole["model_sha256"]
    kept = [
        [{**line, "seconds": 0} for line in lines(tmp_path / d / "repairs.jsonl")]
        for d in ("whole", "cut")
    ]
    assert kept[0] == kept[1]


def test_the_rnp_alarm_decides_over_rnp(tmp_path):
    audit = {"name": "rnp-alarm", "at_least": 0.01, "every": 2}
    values = {"repair": "rnp", "repair_at": "alarm", "audit": audit}
    run(tmp_path, **values)
    assert repaired(tmp_path) == [2, 4]
    told = lines(tmp_path / "audits.jsonl")
    assert [line["round"] for line in told] == [2, 4]
    assert all(0.0 < line["confidence"] <= 1.0 for line in told)


def test_a_model_without_channels_is_refused_before_the_first_round(tmp_path):
    with pytest.raises(ConfigurationError, match="no channels"):
        run(tmp_path, model="logistic", repair="rnp")
