from __future__ import annotations

import pytest
import torch

from fedguard.models.build import build
from fedguard.randomness import generator
from fedguard.unlearning.attribution import contributions
from fedguard.unlearning.pruning import prunable_layers

NETWORKS = {
    "mlp": ((1, 8, 8), {"hidden": (12, 9)}),
    "cnn": ((1, 28, 28), {}),
    "resnet18": ((3, 32, 32), {}),
}


def network(name):
    shape, options = NETWORKS[name]
    module = build(name, shape, 10, 0, **options)
    rng = generator(0, 0, 0, "examples")
    return module, torch.randn(7, *shape, generator=rng), torch.arange(7) % 10


def test_one_hidden_layer_in_closed_form():
    module = build("mlp", (1, 8, 8), 10, 0, hidden=(12,))
    x = torch.randn(5, 1, 8, 8, generator=generator(0, 0, 0, "x"))
    y = torch.tensor([0, 3, 3, 9, 1])
    hidden = (x.flatten(1) @ module.hidden[0].weight.T + module.hidden[0].bias).relu()
    logits, weight = hidden @ module.output.weight.T + module.output.bias, module.output.weight
    others = logits.clone()
    others[torch.arange(5), y] = -torch.inf
    slopes = weight[y] - others.softmax(dim=1) @ weight
    expected = (hidden * slopes).clamp(min=0).double().mean(dim=0)
    found = contributions(module, prunable_layers(module), x, y, batch=2)
    assert torch.allclose(found, expected, atol=1e-6)
    assert float(found.max()) > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_every_unit_of_every_layer_has_one(name):
    module, x, y = network(name)
    layers = prunable_layers(module)
    found = contributions(module, layers, x, y)
    assert found.shape == (sum(layer.units for layer in layers),)
    assert bool(torch.isfinite(found).all())
    assert bool((found >= 0).all())
    assert all(parameter.grad is None for parameter in module.parameters())
    for part in torch.split(found, [layer.units for layer in layers]):
        assert float(part.max()) > 0


@torch.no_grad()
def test_a_unit_that_nobody_reads_contributes_nothing():
    module, x, y = network("cnn")
    module.output.weight[:, 5] = 0.0
    layers = prunable_layers(module)
    last = torch.split(contributions(module, layers, x, y), [layer.units for layer in layers])[-1]
    assert float(last[5]) == 0.0


def test_no_rows_no_contributions():
    module, x, y = network("mlp")
    assert not contributions(module, prunable_layers(module), x[:0], y[:0]).any()
