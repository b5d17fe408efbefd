"""NAD's attention and choice of beta; super-fine-tuning; fine-pruning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedguard.errors import ConfigurationError
from fedguard.randomness import generator
from fedguard.repairs.fine_pruning import FinePruning
from fedguard.repairs.nad import Nad
from fedguard.repairs.super_finetune import SuperFineTuning
from fedguard.repairs.toolkit.rows import score, split_rows
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.testing import small_tools
from fedguard.training.attention import attention, layer_outputs


def stream(number=0):
    return generator(number, 1, 0, "repair")


def image_tools():
    draw = torch.Generator().manual_seed(1)
    y = torch.arange(40) % 2
    x = torch.rand(40, 1, 8, 8, generator=draw)
    x[y == 1, :, :4] += 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 2),
        )
    return ServerTools.of(model, x, y, latent_layer="4")


def test_attention_by_hand():
    features = torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]])  # one row, two channels, 1 x 2
    expected = torch.tensor([[9.0, 4.0]]) / (97.0**0.5)
    torch.testing.assert_close(attention(features), expected)
    torch.testing.assert_close(
        attention(torch.tensor([[1.0, -2.0]])), torch.tensor([[1.0, 4.0]]) / 17**0.5
    )


def test_attention_does_not_change_with_the_scale():
    features = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention(7.0 * features), attention(features), atol=1e-5, rtol=1e-4)
    assert not bool(attention(torch.zeros(2, 3, 4, 4)).any())


def test_beta_0_is_the_schedule_alone_and_a_large_beta_holds_attention_to_the_teachers():
    found = {}
    for beta in (0.0, 100.0):
        tools = image_tools()
        repair = Nad(betas=(beta,), epochs=12, batch_size=16, high=0.03, augment=False)
        told = repair.mend(tools, stream())
        assert told["beta"] == beta
        maps = [layer_outputs(m, ["2"], tools.x)["2"] for m in (tools.model, repair.teacher)]
        found[beta] = float((attention(maps[0]) - attention(maps[1])).norm())
    assert found[100.0] < 0.7 * found[0.0]


def test_the_beta_with_the_best_held_out_score_is_kept():
    tools = small_tools()
    told = Nad(betas=(500.0, 0.0, 50.0), epochs=3, batch_size=16).mend(tools, stream())
    assert told["betas"] == [0.0, 50.0, 500.0]
    best = max(told["scores"])
    assert told["beta"] == told["betas"][told["scores"].index(best)]
    assert told["held_out_after"] == pytest.approx(best, abs=1e-4)
    _, held = split_rows(tools, 0.2, stream())
    assert score(held, tools.model) == pytest.approx(told["held_out_after"])


def test_every_beta_sees_the_same_batches():
    one, both = small_tools(), small_tools()
    Nad(betas=(0.0,), epochs=2).mend(one, stream())
    told = Nad(betas=(0.0, 1e9), epochs=2).mend(both, stream())
    if told["beta"] == 0.0:
        for name, value in one.model.state_dict().items():
            assert torch.equal(both.model.state_dict()[name], value)
    assert (
        told["scores"][0] == Nad(betas=(0.0,), epochs=2).mend(small_tools(), stream())["scores"][0]
    )


@pytest.mark.parametrize("betas", [(), (-1.0,), (float("nan"),), (float("inf"),)])
def test_betas_are_checked(betas):
    with pytest.raises(ConfigurationError, match="betas"):
        Nad(betas=betas)


@pytest.mark.parametrize(
    "arguments",
    [{"teacher_epochs": 0}, {"epochs": 0}, {"high": 0.0}, {"batch_size": 0}, {"stages": 0}],
)
def test_nads_arguments_are_checked(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        Nad(**arguments)


def test_super_finetuning_learns_and_tells_its_scores():
    tools = small_tools()
    told = SuperFineTuning(epochs=6, batch_size=16).mend(tools, stream())
    assert told["score_after"] == pytest.approx(score(tools, tools.model))
    assert told["score_after"] > told["score_before"] + 0.2
    assert "undone" not in told


def test_its_change_is_bounded_where_it_is_asked_for():
    tools = small_tools()
    start = torch.cat([p.detach().flatten().clone() for p in tools.model.parameters()])
    told = SuperFineTuning(epochs=4, most=0.05).mend(tools, stream())
    now = torch.cat([p.detach().flatten() for p in tools.model.parameters()])
    assert told["moved"] == pytest.approx(0.05 * float(start.norm()), rel=1e-4)
    assert float((now - start).norm()) == pytest.approx(told["moved"], rel=1e-3)


def test_its_rates_climb_and_its_end_is_finite_or_undone():
    told = SuperFineTuning(low=1e29, high=1e30).mend(small_tools(), stream())
    assert told["undone"] == 1.0
    assert told["score_after"] == told["score_before"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"low": 0.0},
        {"high": 0.0001},
        {"cycles": 0},
        {"epochs": 0},
        {"batch_size": 0},
        {"most": 0.0},
    ],
)
def test_super_finetunings_arguments_are_checked(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        SuperFineTuning(**arguments)


def test_fine_pruning_shuts_the_channels_that_sleep_first():
    tools = small_tools()
    with torch.no_grad():
        tools.model[1].weight[[3, 8]] = 1e-6  # asleep, and far below zero
        tools.model[1].bias[[3, 8]] = -1.0
    repair = FinePruning(tolerance=1.0, most=2.0 / 24.0, epochs=0)
    told = repair.mend(tools, stream())
    assert told["pruned"] == 2
    assert (~repair.kept["1"]).nonzero().flatten().tolist() == [3, 8]
    assert told["held_out_pruned"] == told["held_out_before"]  # nobody misses them


def test_fine_pruning_stops_before_it_costs_too_much():
    tools = small_tools()
    optimiser = torch.optim.SGD(tools.model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(tools.model(tools.x), tools.y).backward()
        optimiser.step()
    told = FinePruning(tolerance=0.1, most=0.99, epochs=0).mend(tools, stream())
    assert told["held_out_pruned"] >= told["held_out_before"] - 0.1
    assert 0 < told["pruned"] < 24


def test_fine_tuning_of_a_pruned_model_keeps_the_channels_shut():
    tools = small_tools()
    repair = FinePruning(tolerance=1.0, most=0.5, epochs=2)
    repair.mend(tools, stream())
    gone = ~repair.kept["1"]
    assert int(gone.sum()) == 12
    assert not bool(tools.model[1].weight[gone].any())
    assert bool(tools.model[1].weight[~gone].any())


@pytest.mark.parametrize(
    "arguments",
    [{"tolerance": -1.0}, {"most": 1.0}, {"epochs": -1}, {"lr": 0.0}, {"batch_size": 0}],
)
def test_fine_prunings_arguments_are_checked(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        FinePruning(**arguments)
