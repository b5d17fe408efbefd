"""Which layers hold channels, masks that change nothing or all, and the stages of a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedguard.errors import ConfigurationError
from fedguard.models.build import build
from fedguard.models.channels import (
    channel_units,
    masked_tensors,
    run_masked,
    shut,
)
from fedguard.training.attention import feature_stages, layer_outputs, outputs_of

X = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(3))


def network():
    model = build("conv-bn", (1, 28, 28), 10, 0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, 0.1, 0.5)
    return model.eval()


def ones(units):
    return {unit.layer: torch.ones(unit.size) for unit in units}


def test_batch_normalisation_holds_the_channels_of_the_convolution_before_it():
    units = channel_units(network(), X)
    assert [unit.size for unit in units] == [16, 16, 32, 32, 64]
    assert units[0].layer == "features.0.1"
    assert units[0].tensors == ("features.0.1.weight", "features.0.1.bias")
    assert channel_units(network(), X, shift=False)[0].tensors == ("features.0.1.weight",)


def test_layers_without_normalisation_hold_their_own_and_logits_have_none():
    units = channel_units(build("cnn", (1, 28, 28), 10, 0), X)
    assert [unit.layer for unit in units] == ["features.0", "features.3", "hidden.0"]
    flat = channel_units(build("logistic", (1, 28, 28), 10, 0), X)
    assert flat == []


def test_group_normalisation_counts_too_and_frozen_layers_do_not():
    model = build("resnet18", (1, 28, 28), 10, 0)
    assert len(channel_units(model, X[:1])) == 20
    model.bn1.weight.requires_grad_(False)
    assert len(channel_units(model, X[:1])) == 19


@pytest.mark.parametrize("name", ["conv-bn", "cnn", "mlp", "resnet18"])
def test_masks_of_one_change_no_bit(name):
    model = build(name, (1, 28, 28), 10, 0).eval()
    units = channel_units(model, X[:2])
    masks = ones(units)
    own = dict(model.named_parameters())
    for tensor, value in masked_tensors(model, units, masks).items():
        assert torch.equal(value, own[tensor])
    assert torch.equal(run_masked(model, units, masks, X[:2]), model(X[:2]))


def test_a_mask_scales_the_channel_and_only_the_mask_has_a_gradient():
    model = network()
    units = channel_units(model, X)
    masks = ones(units)
    masks["features.4.1"] = torch.full((64,), 0.5, requires_grad=True)
    # The last channels reach the logits through a ReLU, a maximum and a linear layer.
    bias = model.output.bias
    torch.testing.assert_close(
        run_masked(model, units, masks, X) - bias, 0.5 * (model(X) - bias), atol=1e-5, rtol=1e-4
    )
    run_masked(model, units, masks, X).sum().backward()
    assert masks["features.4.1"].grad is not None
    assert all(value.grad is None for value in model.parameters())


def test_a_shut_channel_puts_out_nothing_and_the_others_stay():
    model = network()
    units = channel_units(model, X)
    before = layer_outputs(model, ["features.1"], X)["features.1"]
    kept = torch.ones(16, dtype=torch.bool)
    kept[[2, 7]] = False
    assert shut(model, units[1:2], {"features.1.1": kept}) == 2
    after = layer_outputs(model, ["features.1"], X)["features.1"]
    assert not bool(after[:, ~kept].any())
    assert torch.equal(after[:, kept], before[:, kept])


def test_stages_are_the_last_maps_of_each_size():
    model = network()
    assert feature_stages(model, X) == ["features.0", "features.2", "features"]
    assert feature_stages(model, X, most=1) == ["features"]
    assert feature_stages(build("resnet18", (1, 28, 28), 10, 0), X[:1]) == [
        "layer2",
        "layer3",
        "layer4",
    ]


def test_a_network_without_maps_has_its_last_hidden_layer():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    assert feature_stages(model, torch.zeros(2, 8)) == ["1"]


def test_looking_leaves_modes_and_numbers_as_they_are():
    model = network().train()
    model.pool.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    channel_units(model, X)
    feature_stages(model, X)
    layer_outputs(model, ["pool"], X)
    assert model.training
    assert not model.pool.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_outputs_are_copies_with_gradient():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    with outputs_of(model, ["0"]) as seen:
        model(-torch.ones(1, 4))
        assert bool((seen["0"] < 0).any())
        seen["0"].sum().backward()
    assert model[0].weight.grad is not None


def test_the_network_with_batch_normalisation_checks_its_arguments():
    with pytest.raises(ConfigurationError, match="channels"):
        build("conv-bn", (1, 28, 28), 10, 0, channels=(1, 2, 3, 4, 0))
    with pytest.raises(ConfigurationError, match="pool"):
        build("conv-bn", (1, 28, 28), 10, 0, pool="least")
    average = build("conv-bn", (3, 8, 8), 4, 0, pool="average").eval()
    with torch.no_grad():
        maps = average.features(torch.ones(1, 3, 8, 8))
        torch.testing.assert_close(average.pool(maps), maps.mean(dim=(2, 3)))
    largest = build("conv-bn", (3, 8, 8), 4, 0).eval()
    with torch.no_grad():
        maps = largest.features(torch.ones(1, 3, 8, 8))
        assert torch.equal(largest.pool(maps), maps.amax(dim=(2, 3)))
