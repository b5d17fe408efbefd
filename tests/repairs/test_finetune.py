"""Fine-tuning against a plain loop, and what it does where it cannot help."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from fedguard.errors import ConfigurationError
from fedguard.randomness import generator
from fedguard.repairs.finetune import FineTuning
from fedguard.testing import small_tools


def stream():
    return generator(0, 1, 0, "repair")


def state(tools):
    return {name: value.clone() for name, value in tools.model.state_dict().items()}


def test_it_is_sgd_with_momentum_on_the_servers_rows():
    tools = small_tools()
    model = copy.deepcopy(tools.model).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    rng = stream()
    for _ in range(2):
        for rows in torch.split(torch.randperm(60, generator=rng), 16):
            optimiser.zero_grad()
            functional.cross_entropy(model(tools.x[rows]), tools.y[rows]).backward()
            optimiser.step()
    figures = FineTuning(epochs=2, lr=0.02, batch_size=16).mend(tools, stream())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(tools.model.state_dict()[name], value)
    model.eval()
    with torch.no_grad():
        loss = float(functional.cross_entropy(model(tools.x), tools.y))
    assert figures["loss_after"] == pytest.approx(loss, abs=1e-6)


def test_it_lowers_the_servers_loss_and_tells_how_far_it_went():
    tools = small_tools()
    before = torch.cat([p.detach().flatten().clone() for p in tools.model.parameters()])
    figures = FineTuning(lr=0.05).mend(tools, stream())
    after = torch.cat([p.detach().flatten() for p in tools.model.parameters()])
    assert figures["loss_after"] < 0.6 * figures["loss_before"]
    assert figures["moved"] == pytest.approx(float((after - before).norm()), rel=1e-5)


def test_a_model_that_leaves_the_finite_numbers_is_put_back():
    tools = small_tools()
    before = state(tools)
    figures = FineTuning(lr=1e30, epochs=5).mend(tools, stream())
    assert figures["undone"] == 1.0
    assert figures["loss_after"] == figures["loss_before"]
    for name, value in tools.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_frozen_parameters_are_left_alone():
    tools = small_tools()
    tools.model[0].weight.requires_grad_(False)
    before = state(tools)
    FineTuning().mend(tools, stream())
    assert torch.equal(tools.model[0].weight, before["0.weight"])
    assert not torch.equal(tools.model[3].weight, before["3.weight"])


def test_only_its_own_stream_decides():
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        tools = small_tools()
        FineTuning().mend(tools, stream())
        found.append(state(tools))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_one_row_in_the_last_batch_is_no_obstacle():
    tools = small_tools()
    tools.model[1] = torch.nn.Identity()
    few = replace(tools, x=tools.x[:5], y=tools.y[:5])
    figures = FineTuning(batch_size=4).mend(few, stream())
    assert math.isfinite(figures["loss_after"])


@pytest.mark.parametrize(
    "arguments", [{"epochs": 0}, {"lr": 0.0}, {"lr": math.inf}, {"batch_size": 0}]
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        FineTuning(**arguments)
