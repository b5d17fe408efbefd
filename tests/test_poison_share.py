"""The curve of poisoned shares: every cell is a run that can be made, and the table tells them."""

from __future__ import annotations

from fedguard.config import parse
from simulations import poison_share as curve


def test_every_cell_is_a_configuration_and_floors_have_nobody_malicious():
    wanted = list(curve.cells("data", 2, 3))
    rules, shares = len(curve.RULES), len(curve.SHARES)
    assert len(wanted) == 2 * len(curve.SPLITS) * len(curve.TRIGGERS) * (rules * shares + 1)
    for cell in wanted[::7]:
        parse(dict(cell.values))
    assert {cell.values["malicious"] for cell in wanted if cell.key[0] == "floor"} == {0.0}


def test_the_table_has_success_who_was_caught_and_the_floor():
    grouped = {}
    for cell in curve.cells("data", 2, 3):
        rule, *_, share = cell.key
        success = {"floor": 0.01, "fedavg": 0.9}.get(rule, 0.1 + float(share))
        run = {
            "final": {"attack_success_rate": success},
            "detection": {"true_positive_rate": 0.25},
        }
        grouped.setdefault(cell.key, []).append(run)
    text = curve.report(grouped, 2, 3)
    assert "| badnets | Dirichlet .5 | geminiguard | 12.0 ± 0.0 [25.0 ± 0.0] |" in text
    assert "| 90.0 ± 0.0 | 1.0 ± 0.0 |" in text
    assert "seeds 70 to 71" in text
