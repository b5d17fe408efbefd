"""The curve of attackers that know the rule: cells that can be run, and where a rule breaks."""

from __future__ import annotations

from fedguard.config import parse
from simulations import adaptive_curve as curve


def grouped_by(accuracy, success=0.1):
    found = {}
    for cell in curve.cells("data", 2, 3):
        _, attacker, _, share = cell.key
        run = {
            "final": {
                "accuracy": accuracy(attacker, float(share)),
                "attack_success_rate": success if attacker == curve.BACKDOOR else None,
            },
            "detection": {"false_positive_rate": 0.25},
        }
        found.setdefault(cell.key, []).append(run)
    return found


def test_every_cell_is_a_configuration_of_its_own():
    wanted = list(curve.cells("data", 2, 3))
    per_rule = 1 + len(curve.ATTACKERS) * len(curve.SHARES)
    assert len(wanted) == 2 * len(curve.SPLITS) * len(curve.RULES) * per_rule
    assert len({parse(dict(cell.values)).digest() for cell in wanted}) == len(wanted)
    assert {cell.values["malicious"] for cell in wanted if cell.key[1] == "none"} == {0.0}


def test_a_rule_breaks_at_the_least_share_that_costs_more_than_five_points():
    grouped = grouped_by(lambda attacker, share: 0.8 if share < 0.2 else 0.74)
    assert curve.breaks_at(grouped, "sentinel", "boiling-frog", "2 labels") == "20%"
    whole = grouped_by(lambda attacker, share: 0.8 if share < 0.2 else 0.76)
    assert curve.breaks_at(whole, "sentinel", "boiling-frog", "2 labels") == "no"
    assert curve.breaks_at(whole, "sentinel", curve.BACKDOOR, "2 labels") == "no"
    taken = grouped_by(lambda attacker, share: 0.8, success=0.31)
    assert curve.breaks_at(taken, "sentinel", curve.BACKDOOR, "2 labels") == "10%"


def test_the_table_has_peace_what_is_left_success_and_who_was_blamed():
    text = curve.report(grouped_by(lambda attacker, share: 0.8 - share), 2, 3)
    assert "| sentinel | boiling-frog | 80.0 ± 0.0 | 70.0 ± 0.0 [25.0 ± 0.0] |" in text
    assert "| multi-krum | anticipate | 80.0 ± 0.0 | 70.0 ± 0.0 / 10.0 ± 0.0 [25.0 ± 0.0] |" in text
    assert "seeds 140 to\n141" in text
