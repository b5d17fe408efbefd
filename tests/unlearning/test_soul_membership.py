"""The page on membership: who has forgotten is told only where the test has power."""

from __future__ import annotations

from simulations import soul_membership as page


def found(before, soul, finetune, retrain=0.5):
    def seeds(auc):
        return [
            {
                "membership_auc": auc + shift,
                "membership_auc_by_loss": auc,
                "membership_tpr": 0.02,
                "forget_accuracy": 0.8,
                "test_accuracy": 0.7,
            }
            for shift in (-0.01, 0.01)
        ]

    every = {"before": before, "soul": soul, "finetune": finetune, "retrain": retrain}
    return {name: seeds(auc) for name, auc in every.items()}


def test_who_remembers_is_named():
    told = page.verdict(found(0.8, 0.52, 0.7))
    assert "`soul` is +0.02 off retraining's (met)" in told
    assert "`finetune` is +0.20 off retraining's (**missed**)" in told


def test_without_power_nobody_is_said_to_have_forgotten():
    told = page.verdict(found(0.53, 0.5, 0.51))
    assert "no power" in told
    assert "met" not in told


def test_every_method_starts_from_the_same_rounds():
    cells = list(page.cells("", 2))
    assert [cell.key for cell in cells] == [(method,) for method in page.METHODS] * 2
    for cell in cells:
        assert cell.values["unlearn"][0]["round"] == page.BEFORE + 1
    assert cells[2].values["rounds"] == 2 * page.BEFORE + 1
    assert "| before | 0.80 ± 0.01 |" in page.table(found(0.8, 0.5, 0.7))
