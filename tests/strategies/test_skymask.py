from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call

from fedguard.errors import ConfigurationError
from fedguard.strategies.skymask import SkyMask, two_parts
from fedguard.testing import honest_updates, small_tools, with_deltas


@pytest.fixture
def rule():
    made = SkyMask(steps=3, step=0.7)
    made.tools = small_tools()
    return made


def test_masks_are_those_of_automatic_differentiation_in_float64(rule):
    updates = honest_updates(6, seed=3)
    layout, tools = updates.layout, rule.tools
    size = layout.num_trainable
    deltas = updates.trainable.double()
    start = updates.global_vector.double()
    network = tools.model.double().eval()

    def loss(z):
        masks = torch.sigmoid(z)
        moved = (masks * deltas).sum(0) / masks.sum(0)
        vector = torch.cat([start[:size] + moved, start[size:]])
        buffers = set(layout.names[layout.num_trainable_tensors :])
        tensors = layout.unflatten(vector).items()
        state = {name: value.detach() if name in buffers else value for name, value in tensors}
        output = functional_call(network, state, (tools.x.double(),))
        return torch.nn.functional.cross_entropy(output, tools.y)

    z = torch.zeros_like(deltas)
    rate = None
    for _ in range(3):
        z = z.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss(z), z)
        rate = 0.7 / float(grad.abs().max()) if rate is None else rate
        z = z.detach() - rate * grad
    network.float()
    found = rule.learn_masks(updates)
    torch.testing.assert_close(found.double(), torch.sigmoid(z), rtol=1e-4, atol=1e-5)


def test_updates_against_the_servers_examples_are_left_out():
    rule = SkyMask()
    rule.tools = small_tools()
    updates = honest_updates(10, seed=1)
    size = updates.layout.num_trainable
    slope = rule._slope(updates, torch.zeros(size))
    way = -slope / slope.norm()
    noise = torch.randn(10, size, generator=torch.Generator().manual_seed(0)) * 0.02
    deltas = torch.zeros_like(updates.deltas)
    deltas[:, :size] = way + noise
    deltas[:3, :size] = -way + noise[:3]
    verdict = rule.decide(with_deltas(updates, deltas))
    assert set(verdict.reasons) == set(updates.node_ids[:3])
    torch.testing.assert_close(verdict.delta[:size], deltas[3:, :size].mean(0))


def test_nobody_is_left_out_where_the_parts_are_not_apart():
    generator = torch.Generator().manual_seed(0)
    masks = 0.5 + 0.01 * torch.randn(12, 40, generator=generator)
    level = masks.double().mean(1)
    assert two_parts(masks, level, 3.0).all()
    masks[:4] -= 0.4
    np.testing.assert_array_equal(two_parts(masks, masks.double().mean(1), 3.0), [0] * 4 + [1] * 8)
    assert two_parts(masks[:3], level[:3], 3.0).all()
    assert two_parts(torch.full((9, 5), 0.5), torch.full((9,), 0.5), 0.0).all()


def test_arguments_are_checked():
    for field, value in (("steps", 0), ("step", 0.0), ("separation", -1.0)):
        with pytest.raises(ConfigurationError, match=field):
            SkyMask(**{field: value})
