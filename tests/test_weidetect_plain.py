"""The page on unboosted flips: gaps are per seed, and a missed bar is said."""

from __future__ import annotations

from simulations import weidetect_plain as page


def runs(*f1):
    rates = {"true_positive_rate": 0.5, "false_positive_rate": 0.02}
    return [
        {"final": {"macro_f1": value, "per_class_recall": [0.9] * 5}, "detection": rates}
        for value in f1
    ]


def test_the_bar_is_on_the_mean_and_the_worst_seed_is_shown():
    grouped = {("fedavg", "static"): runs(0.5, 0.4), ("weidetect", "static"): runs(0.47, 0.46)}
    row = page.row(grouped, "static")
    assert row[3:5] == ["-3.0", "yes"]
    grouped["weidetect", "static"] = runs(0.47, 0.4)
    assert page.row(grouped, "static")[4] == "**no**"


def test_no_flip_is_boosted_and_every_cell_is_named_once():
    cells = list(page.cells(None, 2, 8, 0.4))
    keys = [(cell.key, cell.values["seed"]) for cell in cells]
    assert len(set(keys)) == len(keys) == 2 * 2 * len(page.FLIPS)
    for cell in cells:
        attack = cell.values["attack"]
        assert attack == "none" or "scale" not in attack
        assert cell.values["malicious"] == (0.0 if attack == "none" else 0.4)
