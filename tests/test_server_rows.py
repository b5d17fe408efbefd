"""The table of the server's rows: every cell can be run, and its lines say the worst."""

from __future__ import annotations

from fedguard.config import parse
from simulations import server_rows as table


def grouped(lost: float = 0.0):
    """Figures of every cell; under half of the classes rules fall behind by `lost`."""
    found = {}
    for cell in table.cells("data", 2, 3):
        rule, rows, _, attack = cell.key
        accuracy = 0.8 - (lost if rows == "half of the classes" and attack == "dba" else 0.0)
        accuracy = 0.7 if attack == "silent" else accuracy
        run = {
            "final": {
                "accuracy": accuracy,
                "attack_success_rate": 0.9 if rule == "fedavg" else 0.1,
            },
            "detection": {"false_positive_rate": 0.04},
        }
        found.setdefault(cell.key, []).append(run)
    return found


def test_every_cell_is_a_configuration_and_only_labels_that_are_read_are_wrong():
    wanted = list(table.cells("data", 2, 3))
    assert len({parse(dict(cell.values)).digest() for cell in wanted}) == len(wanted)
    assert {c.key[0] for c in wanted if c.key[1] == table.WRONG} == {"sentinel", "fltrust"}
    quiet = [c for c in wanted if c.key[3] == "none" or c.key[0] == "floor"]
    assert {cell.values["malicious"] for cell in quiet} == {0.0}


def test_the_lines_tell_the_cell_in_which_most_is_lost():
    text = table.report(grouped(lost=0.03), 2, 3)
    assert "3.0 points behind plain averaging at its worst (Dirichlet .5, dba)" in text
    assert "| 80.0 ± 0.0 [4.0 ± 0.0] |" in text
    assert "80.0 ± 0.0 / 90.0 ± 0.0" in text
    assert "| Dirichlet .5 | fedavg, the attackers silent | - | 70.0 ± 0.0 | - |" in text
    assert "| Dirichlet .5 | clean floor | - | - | success 10.0 ± 0.0 |" in text
