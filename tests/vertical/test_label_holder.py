"""The written-out step of top model and heads against autograd."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional

from fedguard.vertical.contribution import LOO_MODES
from fedguard.vertical.label_holder import LabelHolder
from fedguard.vertical.models import make_top
from fedguard.vertical.rewards import contribution
from fedguard.vertical.terms import Optimiser

ROWS, PARTIES, EMBEDDING, CLASSES = 23, 4, 5, 3
OPTIMISER = Optimiser(lr=0.1, momentum=0.9, weight_decay=0.01)


def holder(arch, colour, mode):
    top = make_top(PARTIES, EMBEDDING, CLASSES, arch, colour, seed=3)
    y = torch.randint(CLASSES, (200,), generator=torch.Generator().manual_seed(1))
    made = LabelHolder(y, y[:10], CLASSES, top, OPTIMISER)
    if mode:
        made.measure_contributions(mode)
    return made


def by_autograd(made, blocks, y):
    """Return loss, contributions, the blocks' gradients and the weights after a plain step."""
    made = copy.deepcopy(made)
    released = torch.stack([blocks[p] for p in range(PARTIES)], dim=1).requires_grad_()
    without = [] if made.heads is None else made.heads(released.detach(), made.top, y)
    weights = list(made.top.parameters())
    weights += [] if made.heads is None else list(made.heads.parameters())
    optimiser = OPTIMISER.make(weights)
    for parameter, other in zip(weights, made.optimiser.param_groups[0]["params"], strict=True):
        state = made.optimiser.state.get(other, {})
        if "momentum_buffer" in state:
            optimiser.state[parameter]["momentum_buffer"] = state["momentum_buffer"].clone()
    loss = functional.cross_entropy(made.top(released), y)
    (loss + sum(without)).backward()
    optimiser.step()
    value = loss.item()
    found = [contribution(value, one.item()) for one in without]
    return value, found, released.grad, weights


@pytest.mark.parametrize("mode", [None, *LOO_MODES])
@pytest.mark.parametrize(("arch", "colour"), [("modern", False), ("paper", False), ("paper", True)])
def test_a_step_is_what_autograd_gives(mode, arch, colour):
    made = holder(arch, colour, mode)
    stream = torch.Generator().manual_seed(0)
    for _ in range(3):
        ids = torch.randint(200, (ROWS,), generator=stream)
        shape = (ROWS, EMBEDDING)
        blocks = {p: 3.0 * torch.randn(shape, generator=stream) for p in range(PARTIES)}
        loss, shares, gradient, weights = by_autograd(made, blocks, made.y_train[ids])
        step = made.step(blocks, ids)
        assert step.loss == pytest.approx(loss, rel=1e-5)
        assert step.contributions == pytest.approx(shares, rel=1e-3, abs=1e-3)
        torch.testing.assert_close(step.gradients, gradient, rtol=1e-4, atol=1e-6)
        heads = [] if made.heads is None else list(made.heads.parameters())
        for mine, other in zip([*made.top.parameters(), *heads], weights, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_blocks_that_are_missing_count_as_zeros():
    blocks = {p: torch.randn(ROWS, EMBEDDING) for p in (0, 3)}
    full = {p: blocks.get(p, torch.zeros(ROWS, EMBEDDING)) for p in range(PARTIES)}
    ids = torch.arange(ROWS)
    some, whole = (holder("modern", False, "heads").step(one, ids) for one in (blocks, full))
    assert some.loss == whole.loss
    assert some.contributions[1] == some.contributions[2] == pytest.approx(0.0, abs=1e-3)
    assert torch.equal(some.gradients, whole.gradients)


@pytest.mark.parametrize("mode", ["heads", "shared"])
def test_state_restores_heads_and_momentum(mode):
    ids = torch.arange(ROWS)
    blocks = {p: torch.randn(ROWS, EMBEDDING) for p in range(PARTIES)}
    one, other = holder("modern", False, mode), holder("modern", False, mode)
    one.step(blocks, ids)
    other.load_state(one.state())
    assert one.step(blocks, ids).contributions == other.step(blocks, ids).contributions
    for name, value in one.state().items():
        assert torch.equal(value, other.state()[name]), name


@pytest.mark.parametrize("mode", [None, *LOO_MODES])
@pytest.mark.parametrize("size", [3e38, -3e38])
def test_a_batch_that_overflows_teaches_nobody(mode, size):
    made = holder("modern", False, mode)
    blocks = {p: torch.randn(ROWS, EMBEDDING) for p in range(PARTIES)}
    made.step(blocks, torch.arange(ROWS))
    before = made.state()
    step = made.step({**blocks, 2: torch.full((ROWS, EMBEDDING), size)}, torch.arange(ROWS))
    assert not step.gradients.any()
    assert step.contributions == [0.0] * (PARTIES if mode else 0)
    for name, value in made.state().items():
        assert torch.equal(value, before[name]), name
    assert math.isfinite(made.step(blocks, torch.arange(ROWS)).loss)
