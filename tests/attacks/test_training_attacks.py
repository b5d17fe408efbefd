"""Attacks that change local steps: PGD, Neurotoxin, model replacement; and A3FL's trigger."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedguard.attacks.a3fl import A3fl
from fedguard.attacks.model_replacement import ModelReplacement
from fedguard.attacks.neurotoxin import Neurotoxin, small_coordinates
from fedguard.attacks.pgd import Pgd
from fedguard.attacks.toolkit.projection import distance
from fedguard.randomness import generator
from fedguard.training.base import LocalStep
from tests.attacks.worlds import a_round, images, rows


def _step(last_update=None):
    stream = torch.Generator().manual_seed(5)
    start = [torch.randn(4, 3, generator=stream), torch.randn(4, generator=stream)]
    parameters = [nn.Parameter(value.clone()) for value in start]
    for value in parameters:
        value.grad = torch.randn(value.shape, generator=stream)
    return LocalStep(parameters, start, last_update)


def _sgd(step, lr=0.1):
    def update():
        with torch.no_grad():
            for value in step.parameters:
                value -= lr * value.grad

    return update


def test_pgd_stays_in_the_ball_and_keeps_the_direction():
    step, free = _step(), _step()
    attack = Pgd(epsilon=0.05)
    for _ in range(5):
        attack.local_step(step, _sgd(step))
        assert distance(step) == pytest.approx(0.05, rel=1e-4)
    _sgd(free)()
    one = _step()
    attack.local_step(one, _sgd(one))
    moved = torch.cat([(a - b).flatten() for a, b in zip(one.parameters, one.start, strict=True)])
    whole = torch.cat([(a - b).flatten() for a, b in zip(free.parameters, free.start, strict=True)])
    assert functional.cosine_similarity(moved, whole, dim=0).item() == pytest.approx(1.0, abs=1e-4)


def test_pgd_leaves_small_steps_alone():
    step, free = _step(), _step()
    Pgd(epsilon=100.0).local_step(step, _sgd(step))
    _sgd(free)()
    assert all(torch.equal(a, b) for a, b in zip(step.parameters, free.parameters, strict=True))


def test_neurotoxin_moves_only_where_the_last_update_was_small_in_size():
    last = [torch.arange(12.0).view(4, 3), torch.tensor([-20.0, 30.0, -0.5, 0.1])]
    step = _step(last)
    attack = Neurotoxin(keep=0.5)
    for _ in range(3):
        for value in step.parameters:
            value.grad = torch.ones_like(value)
        attack.local_step(step, _sgd(step))
    magnitude = torch.cat([part.abs().flatten() for part in last])
    allowed = magnitude <= magnitude.sort().values[7]
    moved = torch.cat(
        [(a != b).flatten() for a, b in zip(step.parameters, step.start, strict=True)]
    )
    assert torch.equal(moved, allowed)


def test_neurotoxin_keeps_to_its_mask_where_the_client_decays_its_weights():
    last = [torch.arange(12.0).view(4, 3), torch.tensor([-20.0, 30.0, -0.5, 0.1])]
    step = _step(last)
    optimiser = torch.optim.SGD(step.parameters, lr=0.1, momentum=0.9, weight_decay=0.01)
    attack = Neurotoxin(keep=0.5)
    for _ in range(3):
        for value in step.parameters:
            value.grad = torch.ones_like(value)
        attack.local_step(step, optimiser.step)
    magnitude = torch.cat([part.abs().flatten() for part in last])
    allowed = magnitude <= magnitude.sort().values[7]
    here = torch.cat([value.detach().flatten() for value in step.parameters])
    start = torch.cat([value.flatten() for value in step.start])
    assert torch.equal(here != start, allowed)
    free = torch.nn.Parameter(start.clone())
    plain = torch.optim.SGD([free], lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        free.grad = torch.ones_like(free)
        plain.step()
    assert torch.equal(here[allowed], free.detach()[allowed])


def test_neurotoxin_drops_the_top_share_over_all_layers():
    update = [torch.randn(300, generator=torch.Generator().manual_seed(1)), torch.full((20,), 9.0)]
    masks = small_coordinates(update, 0.95)
    assert masks[1].sum() in (0, 20)  # ties are kept or dropped together
    assert small_coordinates([torch.arange(100.0)], 0.95)[0].sum() == 95


def test_neurotoxin_is_plain_training_in_the_first_round_and_renews_its_mask():
    step, free = _step(), _step()
    attack = Neurotoxin(keep=0.25)
    attack.local_step(step, _sgd(step))
    _sgd(free)()
    assert all(torch.equal(a, b) for a, b in zip(step.parameters, free.parameters, strict=True))
    for shift in (0, 1):
        last = [torch.zeros(4, 3), torch.zeros(4)]
        last[shift] += 5.0
        later = _step(last)
        attack.local_step(later, _sgd(later))
        assert torch.equal(later.parameters[shift], later.start[shift])
        assert not torch.equal(later.parameters[1 - shift], later.start[1 - shift])


def test_constrain_and_scale_follows_the_gradient_of_its_loss():
    step = _step()
    with torch.no_grad():
        for value in step.parameters:
            value += 0.3
    theta = [value.detach().clone().requires_grad_() for value in step.parameters]
    task = sum((value * grad).sum() for value, grad in zip(theta, _grads(step), strict=True))
    gap = torch.cat([(a - b).flatten() for a, b in zip(theta, step.start, strict=True)])
    (0.7 * task + 0.3 * gap.norm()).backward()
    ModelReplacement(alpha=0.7).local_step(step, lambda: None)
    for value, expected in zip(step.parameters, theta, strict=True):
        assert torch.allclose(value.grad, expected.grad, atol=1e-6)


def _grads(step):
    return [value.grad.clone() for value in step.parameters]


def test_model_replacement_puts_the_attackers_model_in_place_of_the_mean():
    deltas = rows(10)
    deltas[1:] = 0.0
    coalition, knowledge = a_round(deltas, 1)
    crafted = ModelReplacement().craft(coalition, knowledge)
    average = torch.cat([crafted, knowledge.updates.deltas]).mean(dim=0)
    assert torch.allclose(average, deltas[0], atol=1e-6)


def test_train_and_scale_respects_the_norm_bound():
    deltas = rows(10)
    deltas[1] *= 1e-3
    coalition, knowledge = a_round(deltas, 2)
    crafted = ModelReplacement(scale=100.0, norm_bound=3.0).craft(coalition, knowledge)
    sizes = crafted.norm(dim=1)
    assert sizes[0].item() == pytest.approx(3.0, rel=1e-5)
    assert sizes[1].item() == pytest.approx(100.0 * deltas[1].norm().item(), rel=1e-5)


def _trained_model(x, y):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model


def test_a3fl_finds_a_patch_that_the_model_takes_for_the_target():
    x, y = images(200)
    model = _trained_model(x, y)
    before = [value.clone() for value in model.parameters()]
    attack = A3fl(target_class=3, steps=60, step_size=0.05)
    attack.bind(10, (1, 12, 12))
    rows, columns = attack.patch(12, 12)

    def loss(patch):
        stamped = x.clone()
        stamped[..., rows, columns] = patch
        with torch.no_grad():
            return functional.cross_entropy(model(stamped), torch.full((200,), 3)).item()

    stream = torch.Generator().manual_seed(1)
    guesses = [loss(torch.rand(1, 5, 5, generator=stream)) for _ in range(200)]
    attack.prepare(model, x, y, generator(0, 1, 0, "prepare"))
    assert loss(attack.pattern(1)) < min(guesses)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    changed = attack.trigger(x) != x
    changed[..., rows, columns] = False
    assert not changed.any()
    assert attack.pattern(1).min() >= 0.0
    assert attack.pattern(1).max() <= 1.0


def test_a3fl_repeats_itself_from_the_same_model():
    x, y = images(60)
    model = _trained_model(x, y)
    one, two = A3fl(steps=6), A3fl(steps=6)
    one.prepare(model, x, y, generator(0, 1, 0, "prepare"))
    one.prepare(model, x, y, generator(0, 2, 0, "prepare"))
    two.prepare(model, x, y, generator(0, 2, 0, "prepare"))
    assert torch.equal(one.pattern(1), two.pattern(1))


def test_a3fl_without_preparation_has_a_pattern_all_the_same():
    x, _ = images(5)
    assert torch.equal(A3fl().trigger(x), A3fl().trigger(x))
    attack = A3fl()
    attack.prepare(nn.Flatten(), x[:0], torch.zeros(0), generator(0, 1, 0, "prepare"))
    assert torch.equal(attack.trigger(x), A3fl().trigger(x))
