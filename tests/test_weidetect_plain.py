"""The page on unboosted flips: gaps are per seed, and a missed bar is said."""

from __future__ import annotations

from simulations import weidetect_plain as page


def runs(*f1):
    rates = {"true_positive_rate": 0.5, "false_positive_rate": 0.02}
    recall = [0.9, 0.8, 0.7, 0.6, 0.5]
    return [
        {"final": {"macro_f1": value, "per_class_recall": recall}, "detection": rates}
        for value in f1
    ]


def everywhere(plain, own):
    """Runs of every cell of NSL-KDD."""
    flips = {"none", *page.flips(page.TASKS["nsl-kdd"])}
    return {
        ("nsl-kdd", rule, flip, share): runs(*values)
        for rule, values in (("fedavg", plain), ("weidetect", own))
        for flip in flips
        for share in ("0%", "20%", "40%")
    }


def test_the_bar_is_on_the_mean_and_the_worst_seed_is_shown():
    grouped = everywhere((0.5, 0.4), (0.47, 0.46))
    assert page.row(grouped, "nsl-kdd", "static", "40%")[4:6] == ["+1.5", "-3.0"]
    grouped = everywhere((0.5, 0.4), (0.47, 0.4))
    assert page.row(grouped, "nsl-kdd", "static", "40%")[4] == "-1.5 **missed**"
    text = page.report(grouped, 8, 2)
    assert "missed in 10 of\n10 cells" in text
    assert "at\n-1.5 points" in text


def test_recall_is_of_the_class_that_is_lost():
    grouped = everywhere((0.5,), (0.5,))
    assert page.row(grouped, "nsl-kdd", "probe to normal", "20%")[6:8] == ["70.0", "70.0"]
    assert page.row(grouped, "nsl-kdd", "cyclic", "20%")[6:8] == ["-", "-"]


def test_no_flip_is_boosted_and_every_cell_is_named_once():
    cells = list(page.cells(None, (), 2, 8))
    keys = [(cell.key, cell.values["seed"]) for cell in cells]
    assert len(set(keys)) == len(keys) == 2 * len(page.TASKS) * 2 * (1 + 5 * 2)
    for cell in cells:
        attack = cell.values["attack"]
        assert attack == "none" or "scale" not in attack
        assert f"{cell.values['malicious']:.0%}" == cell.key[3]
