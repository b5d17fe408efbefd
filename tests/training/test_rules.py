"""What each training rule computes, against PyTorch's own optimisers and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedguard.errors import ConfigurationError
from fedguard.models.flat import FlatModel
from fedguard.training.adam import Adam
from fedguard.training.base import SETTING_KEYS, Local, TrainingRule, TrainingSettings
from fedguard.training.fedprox import FedProx
from fedguard.training.sgd import Sgd, proximal_weight

SETTINGS = TrainingSettings(lr=0.05, momentum=0.0, weight_decay=0.0, local_epochs=1, batch_size=4)


def local_of(vector: Tensor, settings: TrainingSettings = SETTINGS, **values: Any) -> Local:
    given: dict[str, Any] = {
        "module": nn.Identity(),
        "vector": vector,
        "gradient": torch.zeros_like(vector),
        "start": vector.clone(),
        "settings": settings,
        "client": 3,
        "server_round": 1,
        "rounds": 10,
        "seed": 0,
        "x": torch.empty(0),
        "y": torch.empty(0),
        "rows": torch.empty(0),
        "velocity": torch.zeros_like(vector),
    }
    return Local(**{**given, **values})


def descend(local: Local) -> None:
    """What the trainer hands to `step`, written anew: SGD as PyTorch documents it."""
    gradient = local.gradient + local.settings.weight_decay * local.vector
    if local.settings.momentum:
        local.velocity.mul_(local.settings.momentum).add_(gradient)
        gradient = local.velocity
    local.vector.sub_(local.settings.lr * gradient)


def gradients(steps: int, size: int = 5) -> Tensor:
    return torch.randn(steps, size, generator=torch.Generator().manual_seed(4))


def follow(rule: TrainingRule, local: Local, given: Tensor) -> Tensor:
    rule.begin(local)
    for gradient in given:
        local.gradient.copy_(gradient)
        rule.step(local, lambda: descend(local))
    rule.end(local)
    return local.vector


def follow_torch(optimiser: torch.optim.Optimizer, value: nn.Parameter, given: Tensor) -> Tensor:
    for gradient in given:
        value.grad = gradient.clone()
        optimiser.step()
    return value.detach()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_pytorchs_adamw(decay):
    settings = replace(SETTINGS, lr=0.02, weight_decay=decay)
    start = torch.linspace(-1.0, 1.0, 5)
    value = nn.Parameter(start.clone())
    optimiser = torch.optim.AdamW([value], lr=0.02, weight_decay=decay)
    wanted = follow_torch(optimiser, value, gradients(20))
    found = follow(Adam(), local_of(start.clone(), settings), gradients(20))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert float((found - start).abs().min()) > 0.01


def test_adams_betas_and_eps_are_those_of_pytorch():
    start = torch.linspace(-1.0, 1.0, 5)
    value = nn.Parameter(start.clone())
    optimiser = torch.optim.AdamW([value], lr=0.05, betas=(0.5, 0.8), eps=0.1, weight_decay=0.0)
    wanted = follow_torch(optimiser, value, gradients(7))
    rule = Adam(beta1=0.5, beta2=0.8, eps=0.1)
    found = follow(rule, local_of(start.clone()), gradients(7))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_adam_forgets_between_rounds_unless_it_keeps():
    forgetful = local_of(torch.zeros(5))
    follow(Adam(), forgetful, gradients(3))
    assert forgetful.memory == {}
    keeping = local_of(torch.zeros(5))
    follow(Adam(keep=True), keeping, gradients(3))
    assert set(keeping.memory) == {"adam.m", "adam.v", "adam.steps"}
    assert float(keeping.memory["adam.steps"]) == 3.0
    assert (Adam().remembers, Adam(keep=True).remembers) == (False, True)


def test_adam_that_keeps_goes_on_as_one_long_optimisation():
    value = nn.Parameter(torch.zeros(5))
    wanted = follow_torch(torch.optim.AdamW([value], lr=0.05, weight_decay=0), value, gradients(8))
    rule, local = Adam(keep=True), local_of(torch.zeros(5))
    follow(rule, local, gradients(8)[:3])
    later = local_of(local.vector, memory=local.memory)
    torch.testing.assert_close(follow(rule, later, gradients(8)[3:]), wanted, atol=1e-6, rtol=0)
    fresh = follow(Adam(), local_of(local.vector.clone()), gradients(8)[3:])
    assert not torch.allclose(fresh, wanted, atol=1e-3)


def test_adam_reads_no_momentum():
    assert "momentum" not in Adam.reads
    same = Adam().settings_for(SETTINGS, {"momentum": 0.5, "lr": 0.5}, 1, 10)
    assert (same.momentum, same.lr) == (0.0, 0.5)


def test_sgd_without_a_proximal_term_is_what_update_does():
    start = torch.linspace(-1.0, 1.0, 5)
    settings = replace(SETTINGS, momentum=0.9, weight_decay=0.01)
    value = nn.Parameter(start.clone())
    optimiser = torch.optim.SGD([value], lr=0.05, momentum=0.9, weight_decay=0.01)
    wanted = follow_torch(optimiser, value, gradients(10))
    found = follow(Sgd(), local_of(start.clone(), settings), gradients(10))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_fedprox_adds_mu_times_the_way_from_the_global_model():
    for rule, config in ((FedProx(mu=0.5), {}), (Sgd(), {"proximal-mu": 0.5})):
        local = local_of(torch.tensor([1.0, -2.0]), config=config)
        local.vector.copy_(torch.tensor([2.0, -5.0]))
        local.gradient.copy_(torch.tensor([0.25, 0.25]))
        seen = []
        rule.step(local, lambda seen=seen, local=local: seen.append(local.gradient.clone()))
        assert seen[0].tolist() == [0.25 + 0.5 * 1.0, 0.25 + 0.5 * -3.0]


def test_fedproxs_term_is_the_gradient_of_its_loss():
    start, point = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    weights = point.clone().requires_grad_()
    (0.5 * 0.3 * (weights - start).square().sum()).backward()
    local = local_of(point.clone(), start=start)
    FedProx(mu=0.3).step(local, lambda: None)
    torch.testing.assert_close(local.gradient, weights.grad)


def test_the_servers_mu_wins_over_fedproxs_own_even_where_it_is_0():
    rule = FedProx(mu=0.5)
    assert rule.proximal({}) == 0.5
    assert rule.proximal({"proximal-mu": 2}) == 2.0
    assert rule.proximal({"proximal-mu": 0.0}) == 0.0
    assert (rule.plain({}), rule.plain({"proximal-mu": 0.0})) == (False, True)
    assert Sgd().proximal({}) == 0.0
    assert (Sgd().plain({}), Sgd().plain({"proximal-mu": 0.1})) == (True, False)
    assert not Adam().plain({})


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, True, "1", [0.1]])
def test_a_proximal_weight_that_is_no_number_of_at_least_0_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"config\.proximal-mu") as caught:
        proximal_weight({"proximal-mu": value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "factors"),
    [
        (Sgd(), [1.0, 1.0, 1.0, 1.0, 1.0]),
        (
            Sgd(schedule="cosine"),
            [1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0.0],
        ),
        (Sgd(schedule="step", every=2, gamma=0.1), [1.0, 1.0, 0.1, 0.1, 0.01]),
        (FedProx(schedule="step", every=1, gamma=0.5), [1.0, 0.5, 0.25, 0.125, 0.0625]),
        (Adam(schedule="step", every=3), [1.0, 1.0, 1.0, 0.5, 0.5]),
    ],
)
def test_schedules_by_hand(rule, factors):
    found = [rule.factor(server_round, 4) for server_round in range(1, 6)]
    assert found == pytest.approx(factors, abs=1e-12)
    scaled = [rule.settings_for(SETTINGS, {}, t, 4).lr for t in range(1, 6)]
    assert scaled == pytest.approx([0.05 * factor for factor in factors], abs=1e-12)


def test_a_schedule_multiplies_the_rate_that_the_server_sends():
    rule = Sgd(schedule="step", every=1, gamma=0.5)
    assert rule.settings_for(SETTINGS, {"lr": 0.8}, 3, 10).lr == pytest.approx(0.2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"schedule": "linear"},
        {"every": 0},
        {"gamma": 0.0},
        {"gamma": 1.1},
        {"gamma": math.nan},
    ],
)
def test_a_schedule_that_cannot_be_is_refused(arguments):
    for kind in (Sgd, FedProx, Adam):
        with pytest.raises(ConfigurationError, match=next(iter(arguments))):
            kind(**arguments)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Adam, {"beta1": 1.0}),
        (Adam, {"beta2": -0.1}),
        (Adam, {"eps": 0.0}),
        (FedProx, {"mu": -1.0}),
    ],
)
def test_a_rules_own_arguments_are_checked(kind, arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        kind(**arguments)


def test_what_the_server_sends_replaces_each_setting():
    config = {
        "lr": 1,
        "momentum": 0.5,
        "weight-decay": 0.25,
        "local-epochs": 3,
        "batch-size": 8,
    }
    assert set(config) == set(SETTING_KEYS)
    found = TrainingRule().settings_for(SETTINGS, config, 1, 1)
    assert found == TrainingSettings(1.0, 0.5, 0.25, 3, 8)
    assert isinstance(found.lr, float)
    assert TrainingRule().settings_for(SETTINGS, {"lr": 0.0}, 1, 1).lr == 0.0
    assert TrainingRule().settings_for(SETTINGS, {}, 1, 1) is SETTINGS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", -0.1),
        ("lr", math.nan),
        ("lr", "0.1"),
        ("lr", True),
        ("lr", 1001.0),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight-decay", -1e-9),
        ("weight-decay", 10.1),
        ("local-epochs", 0),
        ("local-epochs", 1.5),
        ("batch-size", 0),
        ("batch-size", [4]),
        ("batch-size", 2.5),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_key(key, value):
    with pytest.raises(ConfigurationError) as caught:
        TrainingRule().settings_for(SETTINGS, {key: value}, 1, 1)
    assert caught.value.field == f"config.{key}"
    assert "\n" not in str(caught.value)


def test_a_whole_number_may_arrive_as_a_float():
    found = TrainingRule().settings_for(SETTINGS, {"batch-size": 8.0}, 1, 1)
    assert found.batch_size == 8
    assert isinstance(found.batch_size, int)


def test_a_rule_with_a_hook_of_its_own_is_never_taken_for_plain_sgd():
    class Focal(Sgd):
        def loss(self, local, losses):
            return losses.square().mean()

    class Named(Sgd):
        """Another name, the same training."""

    assert not Focal().plain({})
    assert Named().plain({})


def test_the_rules_own_stream_is_the_clients_and_the_rounds():
    def draw(**values):
        return torch.rand(3, generator=local_of(torch.zeros(2), **values).rng)

    assert torch.equal(draw(), draw())
    for other in ({"client": 4}, {"server_round": 2}, {"seed": 1}):
        assert not torch.equal(draw(), draw(**other))


def test_the_base_rules_hooks_are_sgd_on_the_mean_loss():
    local = local_of(torch.ones(2))
    rule = TrainingRule()
    assert float(rule.loss(local, torch.tensor([1.0, 2.0, 6.0]))) == 3.0
    local.gradient.fill_(2.0)
    rule.begin(local)
    rule.step(local, lambda: descend(local))
    rule.end(local)
    assert local.vector.tolist() == pytest.approx([0.9, 0.9])
    assert (rule.remembers, rule.plain({})) == (False, False)


def test_a_flat_models_gradient_is_what_a_rule_sees():
    flat = FlatModel(nn.Linear(2, 1))
    flat.module(torch.ones(1, 2)).sum().backward()
    assert flat.gradient.tolist() == [1.0, 1.0, 1.0]
