"""A battery is read as it is written; a defence that knows who lies gives itself away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from fedguard import registry
from fedguard.campaigns import blindness
from fedguard.campaigns.battery import Contender, read_battery, scenario
from fedguard.clients.federation import draw_malicious
from fedguard.errors import ConfigurationError
from fedguard.grids.veil import Handles
from fedguard.strategies import MultiKrum, RobustStrategy
from fedguard.traits import traits_of
from fedguard.updates import Verdict

V1 = Path(__file__).resolve().parents[2] / "leaderboard" / "v1.yaml"


def written(path: Path, **changes: object) -> Path:
    size = {
        "base": {"rounds": 1, "clients": 6},
        "grid": {"attack": ["none", {"name": "alie", "z": 2.0}]},
        "seeds": 2,
        "defences": ["fedavg", {"strategy": "krum", "pre": "nnm", "by": "me"}],
    }
    content = {"version": "v0", "reference": "fedavg", "sizes": {"quick": {**size, **changes}}}
    path.write_text(yaml.safe_dump(content))
    return path


def test_every_defence_gets_the_same_runs(tmp_path):
    battery = read_battery(written(tmp_path / "b.yaml"), "quick")
    assert battery.name == "v0-quick"
    assert [one.name for one in battery.contenders] == ["fedavg", "krum pre=nnm"]
    cells = battery.cells(battery.contenders[1], {})
    assert [(scenario(cell), cell.config.seed) for cell in cells] == [
        ("none", 0),
        ("none", 1),
        ("alie(z=2.0)", 0),
        ("alie(z=2.0)", 1),
    ]
    assert {cell.config.strategy.name for cell in cells} == {"krum"}
    assert [part.name for part in cells[0].config.pre] == ["nnm"]


def test_every_strategy_whose_updates_are_seen_is_on_the_board_of_every_one():
    """But those over adapters, which need a language model, and the one that needs BatchNorm."""
    named = {one.name for one in read_battery(V1, "every").contenders}
    names = registry.names("strategy", "horizontal")
    seen = {one for one in names if traits_of(registry.find("strategy", one)).visible == "updates"}
    assert named == seen - {"bnguard", "fedit", "flora"}
    assert read_battery(V1, "every").campaign == read_battery(V1, "quick").campaign


def test_a_defence_of_a_file_of_its_own_stands_beside_them(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\nby: us\nstrategy: {name: krum}\n")
    battery = read_battery(written(tmp_path / "b.yaml"), "quick", [tmp_path / "mine.yaml"])
    mine = battery.contenders[-1]
    assert (mine.name, mine.by, mine.strategy) == ("mine", "us", "krum")


@pytest.mark.parametrize(
    ("strategy", "league"),
    [("median", "none"), ("flare", "unlabelled"), ({"name": "fltrust"}, "labelled")],
)
def test_a_league_is_what_the_strategy_declares(strategy, league):
    assert Contender.of({"strategy": strategy}).league == league


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"defences": []}, "at least one defence"),
        ({"defences": ["krum", "krum"]}, "no other defence has"),
        ({"defences": [{"pre": "nnm"}]}, "a mapping with strategy"),
        ({"defences": [{"strategy": "krum", "rounds": 3}]}, "assumed_malicious"),
        ({"base": {"strategy": "krum"}}, "a defence's field alone"),
        ({"grid": {"dataset": ["digits"]}}, "a list of attacks"),
        ({"seedz": 3}, "did you mean 'seeds'?"),
    ],
)
def test_a_battery_that_could_not_rank_is_refused(tmp_path, changes, told):
    with pytest.raises(ConfigurationError, match=told.replace("?", r"\?")):
        read_battery(written(tmp_path / "b.yaml", **changes), "quick")


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="quick"):
        read_battery(written(tmp_path / "b.yaml"), "ful")


@pytest.mark.parametrize("size", ["quick", "full"])
def test_the_first_version_is_valid_and_has_every_league(size):
    battery = read_battery(V1, size)
    assert battery.version == "v1"
    assert len(battery.contenders) >= (10 if size == "full" else 12)
    assert {one.league for one in battery.contenders} == {"none", "unlabelled", "labelled"}
    cells = battery.cells(battery.contenders[0], {})
    attacks = {cell.config.attack.name for cell in cells}
    assert "none" in attacks
    assert any(name.startswith("adaptive") for name in attacks)
    assert len({cell.digest for cell in cells}) == len(cells)


class Oracle(RobustStrategy):
    """Rejects who is malicious, worked out as the simulator does from seeds that it guessed."""

    def combine(self, updates):
        liars = {
            Handles(seed).of(client)
            for seed in blindness.SEEDS
            for client in draw_malicious(12, 0.25, seed)
        }
        weights = updates.deltas.new_tensor([float(n not in liars) for n in updates.node_ids])
        weights = (weights / weights.sum()).double()
        reasons = {node: "known" for node in updates.node_ids if node in liars}
        return Verdict((weights.float() @ updates.deltas), weights, {}, reasons)


@pytest.fixture
def _few_runs(monkeypatch):
    monkeypatch.setattr(blindness, "SEEDS", (0, 1))
    monkeypatch.setattr(blindness, "BASE", {**blindness.BASE, "rounds": 1})


@pytest.mark.usefixtures("_few_runs")
def test_a_rule_that_knows_who_lies_gives_itself_away():
    name = f"{__name__}:Oracle"
    assert blindness.blindness({"strategy": name, "check_plugins": False}) < blindness.LEVEL


@pytest.mark.usefixtures("_few_runs")
def test_a_rule_that_rejects_many_and_knows_nothing_does_not():
    fields = {"strategy": {"name": "multi-krum", "assumed_malicious": 0.3}}
    assert issubclass(MultiKrum, RobustStrategy)
    assert blindness.blindness(fields) > blindness.LEVEL


class TestPermutation:
    def test_chance_is_that_of_drawing_the_same_coalition(self):
        members = np.array([True, True, False, False, False, False])
        chance = blindness.permutation([members.astype(float)], [members])
        assert chance == pytest.approx(1 / 15, abs=0.02)  # one pair of the 15 that there are

    def test_where_nobody_is_rejected_nothing_is_known(self):
        members = np.array([True, False, False])
        assert blindness.permutation([np.zeros(3)], [members]) == 1.0

    def test_rejecting_others_more_is_no_knowledge(self):
        members = np.array([True, True, False, False, False, False])
        assert blindness.permutation([(~members).astype(float)], [members]) > 0.9
