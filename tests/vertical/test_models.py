"""Bottom and top models against independent counts, and written-out gradients against autograd."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from fedguard.vertical.models import (
    BasicBlock,
    TopModel,
    losses_and_gradients,
    make_bottom,
    make_top,
)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_papers_colour_network_is_resnet_20():
    """0.27 million parameters, as He et al. 2016 say: 269,722 for ten outputs."""
    assert count(make_bottom((3, 32, 32), 10, "paper", 0, 1)) == 269_722


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("modern", (12 * 64 + 64) + (64 * 5 + 5)),
        ("paper", (12 * 128 + 128) + (128 * 5 + 5)),
    ],
)
@pytest.mark.parametrize("shape", [(12,), (1, 4, 3)])
def test_grey_images_and_tables_get_two_layers(arch, expected, shape):
    model = make_bottom(shape, 5, arch, 0, 1)
    assert count(model) == expected
    x, y = torch.randn(2, 7, *shape).unbind()
    both, apart = model(x + y) + model(torch.zeros_like(x)), model(x) + model(y)
    assert model(x).shape == (7, 5)
    linear = torch.allclose(both, apart, atol=1e-4)
    assert linear == (arch == "paper")  # the paper's has no activation


@pytest.mark.parametrize("shape", [(3, 32, 7), (3, 32, 32), (4, 16, 1)])
@pytest.mark.parametrize("arch", ["modern", "paper"])
def test_strips_of_colour_images_fit(shape, arch):
    assert make_bottom(shape, 6, arch, 0, 2).eval()(torch.randn(2, *shape)).shape == (2, 6)


def test_weights_are_drawn_from_seed_and_party_alone():
    def weights(seed, party):
        return torch.cat(
            [p.flatten() for p in make_bottom((9,), 4, "modern", seed, party).parameters()]
        )

    torch.manual_seed(1)
    one = weights(0, 1)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert torch.equal(one, weights(0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(one, weights(0, 2))
    assert not torch.equal(one, weights(1, 1))


@torch.no_grad()
def test_a_blocks_shortcut_skips_pixels_and_pads_channels_with_zeros():
    block = BasicBlock(2, 5, 2).eval()
    block.second_norm.weight.zero_()
    block.second_norm.bias.zero_()  # nothing but the shortcut is left
    x = torch.rand(3, 2, 8, 6)
    found = block(x)
    assert found.shape == (3, 5, 4, 3)
    assert torch.equal(found[:, :2], x[:, :, ::2, ::2])
    assert not found[:, 2:].any()


def test_the_top_model_is_layers_on_all_blocks_side_by_side():
    top = TopModel(3, 4, 5, (7, 6), activation=True)
    blocks = torch.randn(9, 3, 4)
    hidden = blocks.reshape(9, 12) @ top.first.weight.T + top.first.bias
    for layer in top.rest:
        hidden = hidden.clamp(min=0) @ layer.weight.T + layer.bias
    torch.testing.assert_close(top(blocks), hidden)
    assert torch.equal(top(blocks), top(blocks.flatten(1)))


@pytest.mark.parametrize(
    ("arch", "colour", "widths", "activation"),
    [
        ("modern", False, [64], True),
        ("modern", True, [64], True),
        ("paper", False, [64], False),
        ("paper", True, [512, 256], True),
    ],
)
def test_top_models_of_the_architectures(arch, colour, widths, activation):
    top = make_top(3, 4, 10, arch, colour, 0)
    found = [top.first.out_features, *(layer.out_features for layer in top.rest)]
    assert found == [*widths, 10]
    assert top.first.in_features == 12
    assert top.activation == activation


@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("trained", [0, 1, 3])
def test_written_out_gradients_are_autograds(activation, depth, trained):
    stream = torch.Generator().manual_seed(depth)
    networks, rows, classes = 3, 11, 4
    widths = [*[6, 5, 7, 6][:depth], classes]

    def draw(*shape):
        return torch.randn(*shape, generator=stream, dtype=torch.float64).requires_grad_()

    hidden, y = draw(networks, rows, 6), torch.randint(classes, (rows,), generator=stream)
    layers = [(draw(networks, b, a), draw(networks, 1, b)) for a, b in pairwise(widths)]
    value = hidden
    for weight, bias in layers:
        value = (value.relu() if activation else value) @ weight.transpose(1, 2) + bias
    expected = torch.stack([functional.cross_entropy(one, y) for one in value])
    leaves = [hidden, *(one for pair in layers for one in pair)]
    slopes = torch.autograd.grad(expected.sum(), leaves)
    plain = [(w.detach(), b.detach()) for w, b in layers]
    losses, slope, gradients = losses_and_gradients(
        hidden.detach().clone(), plain, y, activation=activation, trained=trained
    )
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(slope, slopes[0][:trained])
    found = [one for pair in gradients for one in pair]
    for mine, wanted in zip(found, slopes[1:], strict=True):
        torch.testing.assert_close(mine, wanted[:trained])
