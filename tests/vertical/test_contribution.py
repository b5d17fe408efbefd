from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fedguard.vertical.contribution import LeaveOneOut
from fedguard.vertical.models import make_top


@pytest.mark.parametrize("mode", ["heads", "shared", "copies"])
@pytest.mark.parametrize("arch", ["modern", "paper"])
def test_untrained_heads_equal_the_top_model_on_masked_blocks(mode, arch):
    top = make_top(4, 6, 3, arch, False, seed=0)
    blocks = torch.randn(10, 4, 6)
    y = torch.randint(3, (10,))
    found = LeaveOneOut(top, mode)(blocks, top, y)
    for party in range(4):
        masked = blocks.clone()
        masked[:, party] = 0.0
        expected = functional.cross_entropy(top(masked), y)
        assert found[party].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("mode", ["heads", "copies"])
def test_heads_teach_neither_the_top_model_nor_the_parties(mode):
    top = make_top(3, 4, 2, "modern", False, seed=0)
    heads = LeaveOneOut(top, mode)
    blocks = torch.randn(5, 3, 4, requires_grad=True)
    heads(blocks.detach(), top, torch.zeros(5, dtype=torch.int64)).sum().backward()
    assert blocks.grad is None
    assert all(p.grad is None for p in top.parameters())
    assert all(p.grad is not None for p in heads.parameters())


def test_each_head_learns_on_its_own():
    """A head's step does not depend on the other heads: their losses are separate."""
    top = make_top(3, 4, 2, "modern", False, seed=0)
    heads = LeaveOneOut(top, "heads")
    blocks, y = torch.randn(8, 3, 4), torch.randint(2, (8,))
    losses = heads(blocks, top, y)
    grads = torch.autograd.grad(losses[1], list(heads.parameters()))
    for grad in grads:
        assert grad[1].abs().sum() > 0
        assert grad[0].abs().sum() == 0
        assert grad[2].abs().sum() == 0
