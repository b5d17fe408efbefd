from __future__ import annotations

import typing

import pytest
import torch

from fedguard.models.build import build
from fedguard.models.flat import FlatModel
from fedguard.randomness import generator
from fedguard.unlearning.pruning import (
    Evidence,
    PruningRule,
    class_activations,
    keep_mask,
    prunable_layers,
    select_units,
)
from fedguard.updates import ParameterLayout

NETWORKS = {
    "mlp": ("mlp", (1, 8, 8), {"hidden": (12, 9)}),
    "mlp, layer norm": ("mlp", (1, 8, 8), {"layer_norm": True}),
    "cnn": ("cnn", (1, 28, 28), {}),
    "resnet18": ("resnet18", (3, 32, 32), {}),
}


def network(name):
    kind, shape, options = NETWORKS[name]
    return build(kind, shape, 10, 0, **options), shape


@pytest.mark.parametrize("name", NETWORKS)
def test_the_output_layer_is_never_pruned(name):
    module, _ = network(name)
    layers = prunable_layers(module)
    output = [n for n, p in module.named_modules() if isinstance(p, torch.nn.Linear)][-1]
    assert output not in {layer.name for layer in layers}
    layout = ParameterLayout.from_module(module)
    mask = keep_mask(layout, {layer: range(layer.units - 1) for layer in layers})
    kept = layout.unflatten(mask)
    assert bool(kept[f"{output}.bias"].all())
    # The output layer loses columns of silenced units, never a class.
    assert bool(kept[f"{output}.weight"].any(dim=1).all())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_silenced_unit_is_silent(name):
    module, shape = network(name)
    layers = prunable_layers(module)
    flat = FlatModel(module)
    vector = flat.layout.flatten(module.state_dict())
    x = torch.randn(6, *shape, generator=generator(0, 0, 0, "x"))
    y = torch.zeros(6, dtype=torch.long)
    silenced = {layer: [0, layer.units // 2] for layer in layers}
    flat.load(vector * keep_mask(flat.layout, silenced))
    sums, _ = class_activations(module, layers, x, y, 10)
    position = 0
    for layer in layers:
        own = sums.sum(0)[position : position + layer.units]
        assert float(own[silenced[layer]].abs().max()) == 0.0
        position += layer.units


def test_what_reads_a_unit_is_found():
    cnn, _ = network("cnn")
    assert [(layer.name, layer.consumer) for layer in prunable_layers(cnn)] == [
        ("features.0", "features.3"),
        ("features.3", "hidden.0"),
        ("hidden.0", "output"),
    ]
    resnet, _ = network("resnet18")
    by_name = {layer.name: layer for layer in prunable_layers(resnet)}
    assert by_name["layer1.0.conv1"].consumer == "layer1.0.conv2"
    assert by_name["layer1.0.conv1"].norms == ("layer1.0.bn1",)
    # Its filters flow into the residual sum, which others read as well.
    assert by_name["layer1.0.conv2"].consumer is None
    assert by_name["layer1.0.conv2"].norms == ("layer1.0.bn2",)


def test_the_columns_of_a_filter_behind_flattening_go_with_it():
    module, _ = network("cnn")
    layout = ParameterLayout.from_module(module)
    second = prunable_layers(module)[1]
    kept = layout.unflatten(keep_mask(layout, {second: [3]}))["hidden.0.weight"]
    assert not kept[:, 3 * 16 : 4 * 16].any()
    assert int((~kept).sum()) == 16 * len(kept)


def evidence(units=20):
    rng = generator(1, 0, 0, "evidence")
    drawn = [torch.rand(units, generator=rng).double() + 0.01 for _ in range(5)]
    return Evidence(*drawn)


@pytest.mark.parametrize("rule", typing.get_args(PruningRule))
@pytest.mark.parametrize("beta", [0.0, 0.05, 0.3, 0.99])
def test_no_rule_takes_a_whole_layer(rule, beta):
    chosen = select_units(rule, evidence(), beta, generator(0, 0, 0, "draw"))
    assert len(chosen) < 20
    assert len(chosen.unique()) == len(chosen)
    if rule not in ("paper", "none") and beta:
        assert len(chosen) == min(max(round(beta * 20), 1), 19)
    if rule == "none" or beta == 0.0:
        assert not len(chosen)


def test_rules_follow_their_formulas():
    found = Evidence(
        learned=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).double(),
        unlearned=torch.tensor([9.0, 2.0, 3.0, 4.0, 5.0]).double(),
        change=torch.tensor([0.1, 4.0, 0.1, 0.1, 0.1]).double(),
        forget=torch.tensor([1.0, 1.0, 1.0, 8.0, 1.0]).double(),
        retain=torch.tensor([1.0, 1.0, 1.0, 2.0, 1.0]).double(),
    )
    rng = generator(0, 0, 0, "draw")
    assert select_units("paper", found, 0.2, rng).tolist() == [0]
    assert select_units("relative-change", found, 0.2, rng).tolist() == [1]
    assert select_units("activation-ratio", found, 0.2, rng).tolist() == [3]
    assert select_units("attribution-ratio", found, 0.2, rng).tolist() == [3]


def test_activations_are_sums_by_class():
    module, shape = network("mlp")
    layers = prunable_layers(module)
    x = torch.randn(30, *shape, generator=generator(0, 0, 0, "x"))
    y = torch.arange(30) % 3
    sums, counts = class_activations(module, layers, x, y, 10, batch=7)
    hidden = module.hidden[0](x.flatten(1)).relu()
    assert torch.allclose(sums[1, :12], hidden[y == 1].sum(0).double(), atol=1e-4)
    assert counts.tolist() == [10.0, 10.0, 10.0] + [0.0] * 7
