from __future__ import annotations

from itertools import pairwise

import pytest

from simulations import soul_page as table
from simulations import soul_runs as runs


def figures(**given):
    usual = {
        "accuracy": 0.9,
        "success": 0.5,
        "relearned": 0.5,
        "auc": 0.5,
        "flops ratio": 0.5,
        "bytes ratio": 0.5,
        "before accuracy": 0.98,
        "before success": 0.9,
        "before auc": 0.75,
    }
    found = {name: dict(usual) for name in runs.VARIANTS}
    found["retrain"] |= {"success": 0.0, "accuracy": 0.95}
    for name, more in given.items():
        found[name] |= more
    return [found]


GOOD = {"accuracy": 0.945, "success": 0.01, "relearned": 0.1, "flops ratio": 0.1}


def test_bars_are_met_or_missed():
    text = table.bars(figures(soul={**GOOD, "bytes ratio": 0.15}), "mnist")
    assert text.count("| met |") == 7
    assert "**missed**" not in text
    worse = table.bars(figures(soul={**GOOD, "bytes ratio": 0.25}), "mnist")
    assert "at most 0.2 of retraining | 0.25 | **missed** |" in worse
    assert worse.count("| met |") == 6
    assert "accuracy before" not in table.bars(figures(soul=GOOD), "digits")


def test_membership_claims_nothing_where_the_test_has_no_power():
    weak = table.bars(figures(soul={**GOOD, "bytes ratio": 0.15, "before auc": 0.53}), "digits")
    assert "| 0.00 | no claim: 0.53 before the erasure, below 0.7 |" in weak
    assert weak.count("| met |") == 5
    told = table.bars(figures(soul={**GOOD, "auc": 0.6}), "digits")
    assert "at most 0.05 | 0.10 | **missed** |" in told


def test_pruning_that_adds_nothing_is_named():
    found = figures(soul=GOOD, **{"soul, pruning none": {"success": 0.012}})
    assert "Pruning adds nothing here" in table.bars(found, "mnist")
    assert "49.0 points off" in table.bars(figures(soul=GOOD), "mnist")


def test_a_rival_that_is_better_in_everything_is_named():
    found = figures(soul=GOOD, pga={**GOOD, "accuracy": 0.946})
    assert "`soul` is dominated by `pga`" in table.pareto(found)
    found = figures(soul=GOOD, pga={**GOOD, "accuracy": 0.946, "flops ratio": 0.11})
    assert "`soul` is on it" in table.pareto(found)
    found = figures(soul=GOOD, **{"soul, no repair": {**GOOD, "accuracy": 0.946}})
    assert "`soul` is on it. Of its own variants, `soul, no repair` dominate" in table.pareto(found)


def test_cells():
    many = figures(soul={"epochs": 1.0}) + figures(soul={"epochs": 2.0})
    assert table.cell(many, "soul", "epochs", 1.0) == "1.50 ± 0.71"
    assert table.cell(figures(soul={"epochs": None}), "soul", "epochs") == "> 10"
    assert table.mean(many, "soul", "epochs") == pytest.approx(1.5)


def test_every_task_tells_its_setting():
    every = list(runs.tasks(False, "", 2, 500))
    assert [task.dataset for task in every[::2]] == ["mnist", "fashion-mnist", "digits"]
    assert "500 training and 3,000 test images; 10 clients" in runs.told(every[0])
    assert "2 x 2 pixels" in runs.told(every[-1])
    assert {task.dataset for task in runs.tasks(True, "", 2, 500)} == {"digits"}
    for task in every:
        config = task.config("soul")
        assert config.unlearn[0].round == task.before + 1


def test_labels_of_the_picture_do_not_meet(tmp_path):
    found = figures(soul=GOOD)
    placed = table._placed(found, 0.5, (60, 40, 420, 300))
    heights = sorted(label for _, _, _, label in placed)
    assert {name for name, *_ in placed} == set(runs.VARIANTS)
    assert min(b - a for a, b in pairwise(heights)) >= 10 - 1e-9
    assert heights[-1] <= 342
    table.figure({"mnist": found, "digits": found}, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert drawn.count("<circle") == 2 * len(runs.VARIANTS)
