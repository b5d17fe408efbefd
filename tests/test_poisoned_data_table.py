from __future__ import annotations

import pytest

from fedguard.config import parse
from simulations.poisoned_data_table import ATTACKS, RULES, cells, table


def test_every_rule_runs_attacked_and_in_peace_on_the_same_seeds():
    made = cells(2, list(RULES), None)
    assert len(made) == 2 * len(RULES) * len(ATTACKS) * 2
    digests = {parse(dict(cell.values)).digest() for cell in made}
    assert len(digests) == len(made)
    assert {cell.values["poisoned_clients"] for cell in made} == {0.0, 0.3}


def test_the_table_has_the_floor_beside_the_success():
    runs = {
        ("sgd", name): [{"final": {"accuracy": 0.8, "attack_success_rate": success}}]
        for attack in ATTACKS
        for name, success in ((attack, 0.9), (f"no {attack}", 0.1))
    }
    rows = table(runs, ["sgd"]).splitlines()
    assert rows[2] == "| badnets | sgd | 80.0 | 90.0 | 80.0 | 10.0 |"
    with pytest.raises(KeyError):
        table(runs, ["sgd", "abl"])
