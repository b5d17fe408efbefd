"""The ablation: a view that is switched off rejects nobody, and what that costs is counted."""

from __future__ import annotations

import pytest
import torch

from fedguard.strategies.geminiguard import GeminiGuard
from fedguard.updates import ClientUpdates
from simulations import geminiguard_ablation as ablation


def test_blind_to_weights_keeps_copies_and_lengths():
    honest = [[1.0, 0.0], [0.9, 0.3], [1.1, -0.3], [1.0, 0.2], [0.8, 0.1]]
    updates = ClientUpdates.from_matrix(torch.tensor([*honest, [90.0, 0.0], *[[-1.0, 0.0]] * 3]))
    assert set(GeminiGuard().decide(updates).reasons) >= {5, 6, 7, 8}
    for rule in (ablation.GeminiGuardBlindToWeights, ablation.SentinelBlindToWeights):
        assert not rule().decide(updates).reasons


def run(accuracy, success=None):
    return {"final": {"accuracy": accuracy, "attack_success_rate": success}}


def test_what_a_view_costs_is_a_mean_over_cells_and_backdoors_that_come_back():
    grouped = {("whole", cell): [run(0.8, 0.1), run(0.8, 0.1)] for cell in ablation.CELLS}
    grouped |= {("off", cell): [run(0.8, 0.1), run(0.8, 0.1)] for cell in ablation.CELLS}
    assert ablation.cost(grouped, "off") == (pytest.approx(0.0), 0)
    first, other = ablation.BACKDOORS[0], "min-max, 2 labels"
    grouped["off", first] = [run(0.8, 0.9), run(0.8, 0.9)]
    grouped["off", other] = [run(0.7, 0.1), run(0.6, 0.1)]
    lost, risen = ablation.cost(grouped, "off")
    assert lost == pytest.approx((0.7 + 0.15) / len(ablation.CELLS))
    assert risen == 1


def test_every_cell_is_named_once():
    cells = list(ablation.cells("", "sentinel", 2, 3))
    keys = [(cell.key, cell.values["seed"]) for cell in cells]
    assert len(set(keys)) == len(keys) == 2 * len(ablation.CELLS) * 5
