"""Tables of rules under the attacks of three tasks: which runs they have, and what they tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedguard.config import parse
from simulations import graph_cleaning, retrieval_poisons
from simulations.task_tables import PEACE, RULES, TABLES, cells, refusal, rows, run_all, text


@pytest.mark.parametrize("task", sorted(TABLES))
def test_every_rule_runs_attacked_and_in_peace_on_the_same_seeds(task):
    for data in TABLES[task].data:
        made = list(cells(task, data, 2, Path("somewhere")))
        arms = (PEACE, *TABLES[task].arms)
        assert len(made) == 2 * len(RULES) * len(arms)
        runs = [parse(dict(cell.values)) for cell in made]
        assert len({run.digest() for run in runs}) == len(made)
        assert [run.seed for run in runs] == sorted(run.seed for run in runs)
        for cell, run in zip(made, runs, strict=True):
            assert (run.malicious == 0.0) == (cell.key[1] == PEACE)


def test_a_rule_that_looks_at_classes_is_refused_in_the_products_words():
    wanted = {cell.key: cell.values for cell in cells("graphs", "graph-sample", 1, None)}
    assert refusal(wanted["fedavg", PEACE]) is None
    told = refusal(wanted["geminiguard", PEACE])
    assert told is not None
    assert "link-prediction" in told


def summary(auc, caught=None):
    detection = {"true_positive_rate": caught, "false_positive_rate": 0.0}
    return {"final": {"auc": auc, "ap": 0.5}, "detection": detection}


def test_what_is_lost_is_lost_against_the_same_rule_and_seed_in_peace():
    control, _, crafted = TABLES["graphs"].arms
    found = {
        ("fedavg", PEACE): [summary(0.9), summary(0.8)],
        ("fedavg", crafted): [summary(0.7, 0.5), summary(0.7, 1.0)],
        ("multi-krum", PEACE): [summary(0.85), summary(0.85)],
        ("multi-krum", control): [summary(0.95, 0.0)],
    }
    lost = ("15.0 ± 7.1", "75.0 ± 35.4")
    told = list(rows("graphs", found, {"geminiguard": "no"}))
    assert told == [
        ["`fedavg`", PEACE, "85.0 ± 7.1", "50.0 ± 0.0", "-", "-", "0.0 ± 0.0", "2"],
        ["`fedavg`", crafted, *("70.0 ± 0.0", "50.0 ± 0.0"), *lost, "0.0 ± 0.0", "2"],
        ["`multi-krum`", PEACE, "85.0 ± 0.0", "50.0 ± 0.0", "-", "-", "0.0 ± 0.0", "2"],
        ["`multi-krum`", control, "95.0", "50.0", "-10.0", "0.0", "0.0", "1"],
        ["`geminiguard`", "refused", *[""] * 6],
    ]
    page = text("graphs", "graph-sample", found, {"geminiguard": "no"})
    assert '`geminiguard` is refused: "no".' in page
    assert all(line.count("|") == 9 for line in page.splitlines() if line.startswith("|"))


def test_when_the_time_is_used_up_only_what_is_finished_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.task_tables.refusal", lambda values: None)
    monkeypatch.setattr("simulations.task_tables.run_cell", lambda *given: {"run": "now"})
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr("simulations.task_tables.time.process_time", lambda: next(clock))
    wanted = list(cells("graphs", "graph-sample", 1, None))
    digest = parse(dict(wanted[5].values)).digest()
    (tmp_path / digest[:16]).mkdir()
    told = f'{{"config_digest": "{digest}"}}'
    (tmp_path / digest[:16] / "summary.json").write_text(told)
    found, refused = run_all(wanted, tmp_path, 2.0)
    assert refused == {}
    assert found == {
        wanted[0].key: [{"run": "now"}],
        wanted[1].key: [{"run": "now"}],
        wanted[5].key: [{"config_digest": digest}],
    }


def test_poisons_are_counted_on_two_targets_beside_their_floor():
    made = list(retrieval_poisons.cells(2))
    assert len({parse(dict(cell.values)).digest() for cell in made}) == len(made) == 28

    def run(rate):
        figures = {"map": 0.9, "attack_success_rate": rate, "target_share_at_top": 0.2}
        return {"final": figures}

    target = f"target {retrieval_poisons.TARGETS[0]}"
    found = {(target, retrieval_poisons.FLOOR): [run(0.2)], (target, "56"): [run(0.5)]}
    lines = retrieval_poisons.text(found).splitlines()
    assert lines[2] == "| 5 | nobody lies | 90.0 | 20.0 | - | 20.0 | 1 |"
    assert lines[3] == "| 5 | 56 | 90.0 | 50.0 | 30.0 | 20.0 | 1 |"


def test_cleaning_is_tried_with_and_without_edits():
    made = list(graph_cleaning.cells(Path("somewhere"), 2, 2))
    assert len({parse(dict(cell.values)).digest() for cell in made}) == len(made) == 18
    found = {
        (silos, clean): [summary({"none": 0.8, "jaccard": 0.85, "svd": 0.7}[clean])]
        for silos in graph_cleaning.SILOS
        for clean in graph_cleaning.CLEANINGS
    }
    lines = graph_cleaning.text(found, 2).splitlines()
    assert lines[3] == "| nobody's edges are edited | `jaccard` | 85.0 | 5.0 | 1 |"
    assert lines[4] == "| nobody's edges are edited | `svd` | 70.0 | -10.0 | 1 |"
