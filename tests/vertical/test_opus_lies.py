"""The table of lies: every lie is named once, and what it is worth is a share of honest pay."""

from __future__ import annotations

import torch

from simulations import opus_lies


def test_every_cell_is_named_once_and_honest_runs_are_shared():
    cells = list(opus_lies.cells(2, 3))
    keys = [(cell.key, cell.values["seed"]) for cell in cells]
    lies, costs = len(opus_lies.LIES), len(opus_lies.COST_LIES)
    assert len(set(keys)) == len(keys) == 2 * 3 * (1 + lies + costs)
    assert ("believed", "1", "honest") not in {cell.key for cell in cells}


def test_gains_are_tokens_over_those_of_the_same_seed():
    def run(tokens):
        return {"parties": {str(opus_lies.LIAR): {"tokens": tokens}}}

    runs = {
        ("tariff", "4", "honest"): [run(100), run(50), run(0)],
        ("believed", "4", "cost x 32"): [run(150), run(100), run(7)],
    }
    found = opus_lies.gains(runs, "believed", 4.0, "cost x 32")
    assert found == [1.5, 2.0, None]
    assert opus_lies._factor(found) == "1.75 ± 0.35 (most 2.00)"
    assert opus_lies._factor([None]) == "-"


def test_a_silent_party_answers_the_batches_it_is_asked_to():
    h = torch.ones(3, 2)
    never, half = opus_lies.Silent(), opus_lies.Silent(every=2)
    assert never.before_release(None, h, 1, torch.tensor([0, 2])).isnan().all()
    assert torch.equal(half.before_release(None, h, 1, torch.tensor([7, 4])), h)
    assert half.before_release(None, h, 1, torch.tensor([4, 3])).isnan().all()
    assert torch.equal(opus_lies.Loud(factor=3.0).before_release(None, h, 1, h), 3.0 * h)
