"""The table of five splits in its quick form: digits, every cell of one split, two rounds."""

from __future__ import annotations

from fedguard.config import parse
from simulations import geminiguard_table as table
from simulations.common import run_cell


def test_the_quick_table_runs_resumes_and_tells_every_goal(tmp_path, monkeypatch):
    split = "label-quantity"
    monkeypatch.setattr(table, "PARTITIONS", {split: table.PARTITIONS[split]})
    monkeypatch.setattr(table, "ATTACKS", {k: table.ATTACKS[k] for k in ("sign-flip", "badnets")})
    monkeypatch.setattr(table, "BACKDOORS", ("badnets",))
    base = {**table.BASE, **table.QUICK}
    wanted = list(table.cells(base, 1))
    assert len(wanted) == 3 * len((*table.STRATEGIES, *table.FILTERS)) + len(table.OWN) + 2
    grouped = {}
    for cell in wanted:
        grouped.setdefault(cell.key, []).append(run_cell(cell.values, tmp_path))
    again = run_cell(wanted[0].values, tmp_path)
    assert again == grouped[wanted[0].key][0]
    text = table.report(grouped, base, 1)
    assert "success over the floor" in text
    assert "| rule | mean over cells | worst cell | worst run |" in text
    assert "server alone with its labelled rows reaches: label-quantity" in text
    assert "adaptive-gemini" in text
    assert f"| geminiguard | {split} |" in text
    lost, attacked = table.hurts(grouped)
    assert 0 <= lost <= attacked == 2
    assert table.figure(grouped, split).data[0].z[0][0] >= 0.0


def test_a_goal_names_its_worst_cell_and_whether_it_was_reached():
    row = table._goal("gap", {"a": 0.01, "b": -0.02, "c": -0.04}, -0.03)
    assert row == ["gap", "-4.0 (c)", "-3", "1 of 3", "**no**"]
    assert table._goal("gap", {"a": -0.03}, -0.03)[-1] == "yes"


def test_a_goal_that_no_cell_can_show_says_so():
    assert table._goal("gap", {}, -0.15) == ["gap", "-", "-15", "no cell", "-"]


def test_the_whole_table_has_every_rule_on_every_seed():
    wanted = list(table.cells(table.BASE, 3))
    splits, every = len(table.PARTITIONS), len(table.ATTACKS) + 1
    assert (splits, every) == (5, 9)
    rules = len((*table.STRATEGIES, *table.FILTERS))
    each = rules * every + len(table.OWN) + len(table.BACKDOORS) + 1
    assert len(wanted) == 3 * splits * each
    for cell in wanted[:: len(wanted) // 5]:
        parse(cell.values)
    assert {cell.values["malicious"] for cell in wanted if cell.key[0] == "floor"} == {0}
