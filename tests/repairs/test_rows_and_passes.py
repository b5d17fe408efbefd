"""Rows held out, learning rates, varied images and training on the server's rows."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from fedguard.randomness import generator
from fedguard.repairs.toolkit.passes import (
    Passes,
    constant,
    cycles,
    train_on_rows,
    two_steps,
    varied,
)
from fedguard.repairs.toolkit.rows import score, split_rows
from fedguard.testing import small_tools


def stream(number=0):
    return generator(number, 1, 0, "repair")


def test_a_fifth_of_every_class_is_held_out():
    tools = small_tools()
    own, held = split_rows(tools, 0.2, stream())
    assert (len(own.y), len(held.y)) == (48, 12)
    assert held.y.bincount().tolist() == [3, 3, 3, 3]
    both = torch.cat([own.x, held.x])
    assert sorted(both[:, 0].tolist()) == sorted(tools.x[:, 0].tolist())


def test_something_is_held_out_of_few_rows_and_something_left():
    from dataclasses import replace

    tools = small_tools()
    few = replace(tools, x=tools.x[:4], y=tools.y[:4])
    own, held = split_rows(few, 0.2, stream())
    assert (len(own.y), len(held.y)) == (3, 1)


def test_rates_by_hand():
    rate = cycles(0.001, 0.1, 2)
    assert [round(rate(t), 4) for t in (0.0, 0.25, 0.5, 0.75)] == [0.001, 0.1, 0.001, 0.1]
    assert [two_steps(0.1, 0.01, 0.1)(t) for t in (0.0, 0.09, 0.1, 0.9)] == [0.1, 0.1, 0.01, 0.01]
    assert constant(0.3)(0.7) == 0.3


def test_the_score_is_the_tasks_headline_and_higher_is_better():
    tools = small_tools()
    right = float((tools.model.eval()(tools.x).argmax(dim=1) == tools.y).double().mean())
    assert score(tools, tools.model) == pytest.approx(right)
    tools.task.higher_is_better = False
    assert score(tools, tools.model) == pytest.approx(-right)


def test_a_moved_image_is_a_window_of_the_padded_one():
    x = torch.rand(40, 2, 12, 16, generator=torch.Generator().manual_seed(0)) + 1.0
    moved = varied(x, stream())
    padded = nn.functional.pad(x, (3,) * 4, mode="replicate")
    for image, big in zip(moved, padded, strict=True):
        windows = [big[:, i : i + 12, j : j + 16] for i in range(7) for j in range(7)]
        wrong = min(int((image != window).sum()) for window in windows)
        assert wrong == 2 * 3 * 3  # the square that was cut out
        assert int((image == 0.0).sum()) == 2 * 3 * 3
    assert not torch.equal(moved[0], moved[1])


def test_half_of_the_images_are_mirrored_where_it_is_asked_for():
    ramp = torch.arange(1.0, 33.0).expand(200, 1, 8, 32).clone()
    rising = varied(ramp, stream(), flip=True)[:, 0, :, :].diff(dim=2).sum(dim=(1, 2)) > 0
    assert 70 < int(rising.sum()) < 130
    assert bool((varied(ramp, stream())[:, 0].diff(dim=2).sum(dim=(1, 2)) > 0).all())


def test_what_is_no_image_or_too_small_stays():
    assert torch.equal(varied(torch.ones(3, 5), stream()), torch.ones(3, 5))
    tiny = torch.ones(3, 1, 3, 3)
    assert torch.equal(varied(tiny, stream()), tiny)


def test_training_is_sgd_with_the_rate_of_every_step():
    tools = small_tools()
    rate = two_steps(0.1, 0.01, 0.5)
    model = copy.deepcopy(tools.model)
    assert train_on_rows(tools, model, Passes(rate, 2, 20, weight_decay=0.01), stream())
    mine = copy.deepcopy(tools.model).train()
    optimiser = torch.optim.SGD(mine.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    rng = stream()
    torch.randint(2**62, (1,), generator=rng)  # the seed of a network's own noise
    for step in range(6):
        if step % 3 == 0:
            order = torch.randperm(60, generator=rng)
        rows = order[20 * (step % 3) : 20 * (step % 3) + 20]
        optimiser.param_groups[0]["lr"] = 0.1 if step < 3 else 0.01
        optimiser.zero_grad()
        nn.functional.cross_entropy(mine(tools.x[rows]), tools.y[rows]).backward()
        optimiser.step()
    for name, value in mine.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_a_model_that_is_not_finite_is_put_back_and_told():
    tools = small_tools()
    before = {name: value.clone() for name, value in tools.model.state_dict().items()}
    assert not train_on_rows(tools, tools.model, Passes(constant(1e30), 3, 16), stream())
    assert all(torch.equal(v, before[name]) for name, v in tools.model.state_dict().items())


def test_a_further_term_of_the_loss_counts_and_every_step_is_followed():
    tools, steps = small_tools(), []
    weight = tools.model[3].weight

    def shrink(x):
        return 100.0 * weight.square().sum()

    before = float(weight.norm())
    train_on_rows(
        tools,
        tools.model,
        Passes(constant(1e-3), 5, 30),
        stream(),
        extra=shrink,
        after_step=lambda: steps.append(1),
    )
    assert len(steps) == 10
    assert float(weight.norm()) < 0.5 * before


def test_dropout_draws_from_the_repairs_stream():
    found = []
    for noise in (0, 1):
        tools = small_tools()
        model = nn.Sequential(nn.Dropout(0.5), copy.deepcopy(tools.model))
        torch.manual_seed(noise)
        train_on_rows(tools, model, Passes(constant(0.01), 2, 30), stream())
        found.append(model[1][0].weight.clone())
    assert torch.equal(*found)
    assert math.isfinite(float(found[0].sum()))
