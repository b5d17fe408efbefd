"""The parts of the published table that are not runs."""

from __future__ import annotations

import pytest

from simulations import opus_table


def test_engines_by_turns():
    order = []
    engines = {name: lambda name=name: order.append(name) or float(len(order)) for name in "ab"}
    times = opus_table.interleaved(engines, 3)
    assert order == list("ab") * 5
    assert times == {"a": [5.0, 7.0, 9.0], "b": [6.0, 8.0, 10.0]}
    assert opus_table.in_short([0.004, 0.002, 0.003]) == "2.0 / 3.0"
    assert opus_table.ratio([4.0, 9.0], [2.0, 3.0]) == "2.00 / 2.50"


@pytest.mark.parametrize("by_message", [False, True])
def test_an_engine_trains_round_after_round(by_message):
    base = {"batch_size": 719, "device": "cpu"}
    one_round = opus_table.engine(opus_table.STAYING, base, 2, by_message=by_message)
    assert all(one_round() > 0.0 for _ in range(3))


def test_every_cell_is_named_once():
    cells = list(opus_table.cells({"rounds": 2, "device": "cpu"}, 2))
    keys = [(cell.key, cell.values["seed"]) for cell in cells]
    assert len(set(keys)) == len(keys) == 2 * (16 + 24 + 1)
