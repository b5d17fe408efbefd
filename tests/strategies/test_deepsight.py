from __future__ import annotations

import numpy as np
import pytest
import torch

from fedguard.errors import ConfigurationError
from fedguard.strategies.deepsight import (
    DeepSight,
    division_differences,
    output_layer,
    threshold_exceedings,
    update_energies,
)
from fedguard.testing import honest_updates, small_tools, with_deltas
from fedguard.updates import ParameterLayout


def test_finds_the_output_layer():
    layout = ParameterLayout.from_module(small_tools().model)
    layer = output_layer(layout, 4)
    assert layer.weight.stop - layer.weight.start == 4 * 24
    assert layer.bias.start == layer.weight.stop
    with pytest.raises(ConfigurationError, match="last layer"):
        output_layer(ParameterLayout.flat(10), 4)


def test_energies_equal_the_formula():
    updates = honest_updates(3)
    layer = output_layer(updates.layout, 4)
    weight = updates.deltas[:, layer.weight].double().numpy().reshape(3, 4, 24)
    bias = updates.deltas[:, layer.bias].double().numpy()
    energy = np.abs(bias) + np.abs(weight).sum(axis=2)
    wanted = energy**2 / (energy**2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(update_energies(updates, layer).numpy(), wanted, rtol=1e-12)


def test_exceedings_count_classes_above_the_threshold():
    energies = torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.25, 0.25, 0.25, 0.25]])
    assert threshold_exceedings(energies).tolist() == [1.0, 4.0]


def test_division_differences_are_one_for_the_global_model():
    tools, updates = small_tools(), honest_updates(2)
    still = with_deltas(updates, torch.zeros_like(updates.deltas))
    found = division_differences(tools, still, tools.x)
    np.testing.assert_allclose(found.numpy(), 1.0, rtol=1e-9)


def test_a_cluster_that_trained_on_one_class_is_dropped():
    rule = DeepSight()
    rule.tools = small_tools()
    updates = honest_updates(12, mean=0.0, std=0.02)
    layer = output_layer(updates.layout, 4)
    deltas = updates.deltas.clone()
    focused = torch.zeros(4, 24)
    focused[1] = 0.5
    deltas[:3, layer.weight] = focused.flatten() + 0.001 * deltas[:3, layer.weight]
    deltas[:3, layer.bias] = torch.tensor([0.0, 0.5, 0.0, 0.0])
    verdict = rule.decide(with_deltas(updates, deltas))
    assert {updates.node_ids[k] for k in range(3)} <= set(verdict.reasons)
    assert int((verdict.weights > 0).sum()) >= 6
