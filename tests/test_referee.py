"""The referee: what it runs, in which leagues, what its page says; and the controls."""

from __future__ import annotations

import pytest
import torch
import typer

from fedguard import registry
from fedguard.config import parse
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.traits import traits_of
from fedguard.updates import ClientUpdates, ParameterLayout
from simulations import geminiguard_table, heat_map, referee
from simulations.controls import CopiesAlone, LengthAlone, ServerAlone
from simulations.held_out import Gtsrb, named


def summary(value: float, *, success: float | None = None, rejected: float = 0.0) -> dict:
    final = {"accuracy": value, "macro_f1": value, "attack_success_rate": success}
    return {
        "dataset": "gtsrb",
        "final": final,
        "detection": {"false_positive_rate": rejected, "true_positive_rate": None},
    }


PEACE = (("fedavg", 0.8, 0.0), ("geminiguard", 0.77, 0.02), ("sentinel", 0.79, 0.04))


def judged(**attacks) -> dict:
    """Return runs by key: of each attack, by rule, a value, a success and the honest rejected."""
    return {
        (
            rule,
            "gtsrb",
            "dirichlet 0.3",
            attack.replace("_", "-"),
            "0" if attack == "none" else "0.2",
        ): [summary(value, success=success, rejected=rejected)]
        for attack, by_rule in attacks.items()
        for rule, (value, success, rejected) in by_rule.items()
    }


@pytest.mark.parametrize("size", referee.SIZES)
def test_every_cell_is_a_configuration_with_a_seed_that_no_other_table_uses(size):
    wanted = list(referee.cells("data", referee.SIZES[size]))
    used = {*geminiguard_table.SEEDS, *heat_map.SEEDS, 0, 1, 2, 20, 21, 31, 77, *range(100, 103)}
    others = {seed for name, one in referee.SIZES.items() if name != size for seed in one.seeds}
    assert not (used | others) & set(referee.SIZES[size].seeds)
    assert len({str(cell) for cell in wanted}) == len(wanted)
    for cell in wanted[:: 1 + len(wanted) // 40]:
        assert parse(dict(cell.values)).seed in referee.SIZES[size].seeds


def test_no_attack_has_the_setting_of_a_table_that_defaults_were_tuned_on():
    tuned = [spec for table in (heat_map, geminiguard_table) for spec in table.ATTACKS.values()]
    fields = (*referee.TIMED.values(), *referee.KNOWING.values())
    own = (*referee.ATTACKS.values(), *referee.BACKDOORS.values(), *(f["attack"] for f in fields))
    for spec in own:
        assert spec not in tuned
        assert len(spec) > 1  # no bare name: its defaults were looked at


def test_no_client_is_to_hold_more_labels_than_there_are():
    wanted = {cell.key[1:3] for cell in referee.cells("data", referee.SIZES["whole"])}
    assert {data for data, split in wanted if split == "three labels"} == {
        "gtsrb",
        "iscxtor2016",
        "cicids2017-web",
    }
    assert {data for data, _ in wanted} == {*referee.IMAGES, *referee.TABLES}


def test_attackers_come_and_go_and_some_know_the_rule():
    wanted = list(referee.cells("data", referee.SIZES["medium"]))
    timed = {cell.key[0] for cell in wanted if cell.key[3] in referee.TIMED}
    assert timed == set(referee.RULES) - {"server alone"}
    rounds = [c.values["attack_rounds"] for c in wanted if c.key[3] in referee.TIMED]
    assert {"window": [4, 7]} in rounds
    assert {"probability": 0.6} in rounds
    knowing = {cell.key[:2] for cell in wanted if cell.key[3] in referee.KNOWING}
    assert knowing == {(rule, data) for rule in referee.REHEARSED for data in referee.TABLES}
    whole = list(referee.cells("data", referee.SIZES["whole"]))
    assert ("sentinel", "gtsrb") in {c.key[:2] for c in whole if c.key[3] in referee.KNOWING}


def test_attackers_that_know_a_rule_have_a_bar_of_their_own():
    found = {rule: (value - 0.1, None, 0.1) for rule, value, _ in PEACE}
    grouped = judged(
        none={rule: (value, None, lost) for rule, value, lost in PEACE}, label_flip=found
    )
    for key, runs in list(grouped.items()):
        if key[3] == "label-flip":
            grouped[*key[:3], "framing", "0.2"] = runs
    untargeted, known, *_ = referee.bars(grouped)
    assert untargeted.endswith("in 1 of 1 cells, at worst 3.0 (gtsrb, dirichlet 0.3, label-flip)")
    assert known.endswith(
        "behind peace in 1 of 1 cells, at worst 10.0 (gtsrb, dirichlet 0.3, framing)"
    )


def test_triggers_go_on_images_alone_and_their_floor_is_measured():
    wanted = list(referee.cells("data", referee.SIZES["quick"]))
    floors = {cell.key[1] for cell in wanted if cell.key[3] == "badnets" and cell.key[4] == "0"}
    assert floors == {"gtsrb"}
    assert {cell.key[1] for cell in wanted if cell.key[3] in referee.BACKDOORS} == {"gtsrb"}


def test_leagues_are_those_that_the_rules_declare():
    assert [referee.league(rule) for rule in ("fedavg", "geminiguard", "sentinel")] == [
        "none",
        "unlabelled",
        "labelled",
    ]
    assert referee.league("server alone") == "labelled"
    assert referee.league("copies alone") == "none"
    assert all(
        traits_of(registry.create("strategy", rule)).server_data == league
        for rule, league in heat_map.RULES.items()
    )


def test_the_page_ranks_league_by_league_and_names_the_worst_of_peace():
    grouped = judged(
        none={rule: (value, None, lost) for rule, value, lost in PEACE},
        badnets={rule: (value, 0.5, 0.0) for rule, value, _ in PEACE},
    )
    grouped["fedavg", "gtsrb", "dirichlet 0.3", "badnets", "0"] = [summary(0.8, success=0.031)]
    text = referee.report(grouped, "quick")
    assert "`geminiguard`: -3.0 points against plain averaging at its worst" in text
    assert "2 % of the honest clients rejected at most" in text
    assert "success 3.1" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    leagues = [row.split("|")[1].strip() for row in rows[1:]]
    assert leagues == ["none", "unlabelled", "labelled", "-"]
    assert "no proof" in text
    assert "`geminiguard`, backdoors: success more than 15 points over the floor in 1 of 1" in text
    assert "at worst 46.9 (gtsrb, dirichlet 0.3, badnets)" in text


def test_the_page_says_which_part_of_a_size_was_run():
    grouped = judged(none={rule: (value, None, lost) for rule, value, lost in PEACE})
    assert "only" not in referee.report(grouped, "medium")
    text = referee.report(grouped, "medium", ["gtsrb", "adult"])
    assert "**of its data sets only gtsrb, adult**" in text
    assert "--size medium --only gtsrb,adult`" in text


@pytest.mark.parametrize(("option", "value"), [("only", "gtsrp"), ("size", "middle")])
def test_a_name_that_the_referee_does_not_know_is_refused(option, value):
    with pytest.raises(typer.BadParameter, match=f"'{value}' is none of"):
        referee.main("data", **{"size": "medium", option: value})


def test_a_bar_counts_only_cells_that_it_is_about():
    found = {"fedavg": (0.4, 0.9, 0.0), "geminiguard": (0.7, 0.1, 0.0), "fltrust": (0.75, 0.0, 0.0)}
    grouped = judged(
        badnets=found,
        sig={rule: (value, 0.3, 0.0) for rule, (value, _, _) in found.items()},  # half for nobody
        label_flip=found,
    )
    grouped["fedavg", "gtsrb", "dirichlet 0.3", "badnets", "0"] = [summary(0.8, success=0.03)]
    untargeted, backdoors = referee.bars(grouped)
    assert untargeted.endswith("behind the best rule without labels in none of 1 cells")
    assert backdoors.endswith("over the floor in none of 1 cells")


def test_held_out_sets_are_found_by_name_or_by_class():
    assert named("adult") == {"name": "adult"}
    assert named("gtsrb")["name"].endswith(Gtsrb.__name__)


# --- controls ----------------------------------------------------------------------------------


def updates(*, copies: int = 3) -> ClientUpdates:
    rows = torch.randn(8, 40, generator=torch.Generator().manual_seed(0)) + 0.5
    rows[:copies] = -2.0
    return ClientUpdates.from_matrix(rows)


def test_the_copies_filter_alone_rejects_copies_and_no_length():
    seen = updates()
    seen.deltas[7] *= 100.0
    verdict = CopiesAlone().decide(seen)
    assert (verdict.weights == 0).nonzero().flatten().tolist() == [0, 1, 2]
    torch.testing.assert_close(verdict.delta, seen.deltas[3:].mean(dim=0))


def test_the_length_filter_alone_rejects_length_and_no_copies():
    seen = updates(copies=0)
    seen.deltas[7] *= 100.0
    seen.deltas[:3] = seen.deltas[0]
    verdict = LengthAlone().decide(seen)
    assert (verdict.weights == 0).nonzero().flatten().tolist() == [7]
    norms = seen.deltas[:7].norm(dim=1)
    assert float(verdict.delta.norm()) <= float(norms.median()) * 1.0001


def test_the_server_alone_learns_from_its_rows_and_from_no_client():
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(4, 2))
    layout = ParameterLayout.from_module(model)
    start = torch.zeros(layout.size)
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 0).long()
    rule = ServerAlone(seed=3)
    rule.tools = ServerTools(model, x, y, "0", 2)
    found = []
    for scale in (1.0, 1e6):
        deltas = scale * torch.ones(5, layout.size)
        verdict = rule.decide(ClientUpdates.from_matrix(deltas, None, None, start, layout))
        assert not verdict.weights.any()
        found.append(verdict.delta)
    assert torch.equal(*found)
    layout.load(model, start + found[0])
    assert float((model(x).argmax(dim=1) == y).double().mean()) > 0.9
