from __future__ import annotations

import numpy as np
import pytest
import torch
from references import random_rows

from fedguard.strategies.toolkit import sketch as module
from fedguard.strategies.toolkit.sketch import sketch


def test_short_vectors_are_copied():
    rows = torch.from_numpy(random_rows(3, 100, seed=0))
    found = sketch(rows, seed=1)
    assert torch.equal(found, rows)
    assert found.data_ptr() != rows.data_ptr()


@pytest.mark.parametrize("size", [66_000, 600_001])
def test_inner_products_survive_and_sums_are_sums(size):
    rows = torch.from_numpy(random_rows(6, size, seed=2))
    rows[5] = rows[4]
    found = sketch(rows, seed=1).double()
    assert found.shape[1] == max(module.EXACT_UP_TO, -(-size // 8))
    wide = rows.double()
    scale = wide.norm(dim=1)
    error = (found @ found.T - wide @ wide.T) / (scale[:, None] * scale[None, :])
    assert float(error.abs().max()) < 5 / np.sqrt(found.shape[1])
    assert torch.equal(found[4], found[5])
    total = sketch(rows[:1] + rows[1:2], seed=1).double()
    torch.testing.assert_close(total, found[:1] + found[1:2], rtol=1e-4, atol=1e-5)


def test_the_seed_decides_the_signs():
    rows = torch.from_numpy(random_rows(1, 70_000, seed=3))
    assert torch.equal(sketch(rows, seed=1), sketch(rows, seed=1))
    assert not torch.equal(sketch(rows, seed=1), sketch(rows, seed=2))
