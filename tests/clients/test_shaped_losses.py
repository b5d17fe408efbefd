"""Focal and class-balanced cross-entropy: against float64 by hand, and alike in every executor."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from fedguard.assembly.make import make_trainer as trainer_of
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.randomness import generator
from fedguard.training.adam import Adam
from fedguard.training.base import TrainingSettings
from fedguard.training.fedprox import FedProx
from fedguard.training.sgd import Sgd
from fedguard.training.shaping import Shaping
from tests.clients.small_federations import (
    Chain,
    Reader,
    make_trainer,
    text_dataset,
    toy_dataset,
    train_round,
)

SHAPES = [(2.0, 0.0), (0.5, 0.0), (0.0, 0.9), (0.0, 1.0), (1.5, 0.99)]
SIZES = (11, 4, 7, 16, 4)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        return self.last(x)


def by_hand(trainer, client, focal, balance, lr=0.1, epochs=2, batch=4):
    """A client's new weights and biases in float64: the gradient of -w (1 - p)^f log p by hand."""
    rows = trainer.federation.shards[client].numpy()
    x = trainer.federation.dataset.x_train.double().numpy()
    y = trainer.federation.dataset.y_train.numpy()
    counts = np.bincount(y[rows], minlength=3).astype(float)
    with np.errstate(divide="ignore"):
        per_class = 1 / counts if balance == 1 else (1 - balance) / (1 - balance**counts)
    own = per_class[y[rows]]
    per_class = per_class / own.mean()
    linear = trainer.model.module.last
    w, b = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    stream = generator(0, 1, client, "batches")
    for _ in range(epochs):
        order = rows[torch.randperm(len(rows), generator=stream).numpy()]
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            z = x[part] @ w.T + b
            q = np.exp(z - z.max(1, keepdims=True))
            q /= q.sum(1, keepdims=True)
            p = q[np.arange(len(part)), y[part]]
            # d/dp of -(1 - p)^f log p, then dp/dz_j = p (onehot - q_j).
            slope = focal * (1 - p) ** (focal - 1) * np.log(p) - (1 - p) ** focal / p
            onehot = np.eye(3)[y[part]]
            d = (per_class[y[part]] * slope * p)[:, None] * (onehot - q) / len(part)
            w, b = w - lr * d.T @ x[part], b - lr * d.sum(0)
    return np.concatenate([w.ravel(), b])


@pytest.mark.parametrize("name", ["reuse", "vmap", "dense"])
@pytest.mark.parametrize(("focal", "balance"), SHAPES)
def test_every_executor_descends_the_loss_as_float64_does(name, focal, balance):
    trainer = make_trainer(Linear(), rule=Sgd(focal=focal, balance=balance))
    expected = [by_hand(trainer, client, focal, balance) for client in range(5)]
    start = trainer.model.whole_vector()
    deltas, _ = train_round(trainer, name)
    found = (start + deltas).double().numpy()
    np.testing.assert_allclose(found, np.stack(expected), atol=2e-6)
    plain, _ = train_round(make_trainer(Linear()), name)
    assert float((plain - deltas).abs().max()) > 1e-3


@pytest.mark.parametrize(("focal", "balance"), SHAPES)
def test_executors_agree_on_more_than_a_linear_model(focal, balance):
    settings = TrainingSettings(0.1, 0.9, 0.01, 2, 4)
    found = {
        name: train_round(make_trainer(Chain(), settings, Sgd(focal=focal, balance=balance)), name)
        for name in ("reuse", "vmap", "dense")
    }
    deltas, reference = found["reuse"]
    for name in ("vmap", "dense"):
        torch.testing.assert_close(found[name][0], deltas, atol=2e-6, rtol=1e-4)
        assert found[name][1].losses == pytest.approx(reference.losses, rel=1e-4)


def test_the_loss_that_is_reported_stays_cross_entropy():
    """With a learning rate of 0 the model is the same, and so is what is reported of it."""
    still = TrainingSettings(0.0, 0.0, 0.0, 1, 4)
    shaped = [
        train_round(make_trainer(Chain(), still, rule), name)[1].losses
        for rule, name in itertools.product(
            (Sgd(), Sgd(focal=2.0, balance=0.9)), ("reuse", "vmap", "dense")
        )
    ]
    assert all(losses == pytest.approx(shaped[0], rel=1e-5) for losses in shaped)


def test_weights_follow_the_effective_number_of_rows():
    y = torch.tensor([0, 0, 0, 0, 2, 2, 5])
    weights = Shaping(balance=0.9).row_weights(y)
    raw = np.array([0.1 / (1 - 0.9**n) for n in (4, 4, 4, 4, 2, 2, 1)])
    np.testing.assert_allclose(weights.numpy(), raw / raw.mean(), rtol=1e-6)
    even = Shaping(balance=1.0).row_weights(y)
    np.testing.assert_allclose([even[:4].sum(), even[4:6].sum(), even[6]], [7 / 3] * 3, rtol=1e-6)
    assert Shaping(focal=2.0).row_weights(y) is None


@pytest.mark.parametrize("focal", [0.5, 1.0, 2.0])
def test_a_row_that_is_learnt_has_no_slope_and_no_nan(focal):
    losses = torch.tensor([0.0, 1e-30, 1e-4, 0.5, 60.0], dtype=torch.float64, requires_grad=True)
    shaping = Shaping(focal=focal)
    (by_autograd,) = torch.autograd.grad(shaping.of(losses, None).sum(), losses)
    by_formula = shaping.slope(losses.detach(), None)
    assert torch.isfinite(by_autograd).all()
    torch.testing.assert_close(by_autograd, by_formula)
    assert float(by_formula[0]) < 1e-5
    assert float(by_formula[4]) == pytest.approx(1.0)


@pytest.mark.parametrize("rule", [Adam, FedProx])
def test_other_optimisers_take_the_same_losses(rule):
    plain, _ = train_round(make_trainer(rule=rule()))
    shaped, _ = train_round(make_trainer(rule=rule(focal=2.0, balance=1.0)))
    assert float((plain - shaped).abs().max()) > 1e-3


@pytest.mark.parametrize(("name", "value"), [("focal", -1.0), ("focal", 11.0), ("balance", 1.1)])
def test_absurd_values_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=name):
        Sgd(**{name: value})


def test_a_task_without_one_class_per_row_is_refused_before_round_1():
    federation = make_trainer(Reader(), dataset=text_dataset(44)).federation
    config = parse({"training": {"name": "sgd", "balance": 0.9}})
    with pytest.raises(ConfigurationError, match=r"training\.balance: .*one class per row"):
        trainer_of(config, Reader(), federation)


def test_rare_classes_gain_by_balance():
    """One class of three has 4 rows of 44: balanced, the model finds it more often."""
    data = toy_dataset(44)
    data.y_train[data.y_train == 2] = 1
    data.y_train[:4] = 2
    data.x_train[:4] = data.x_train[:4] * 0.1 + torch.tensor([2.0, -2.0, 0, 0, 0, 0])
    settings = TrainingSettings(0.02, 0.0, 0.0, 2, 8)
    mass = []
    for balance in (0.0, 1.0):
        trainer = make_trainer(Linear(), settings, Sgd(balance=balance), dataset=data, sizes=(42,))
        deltas, _ = train_round(trainer)
        trainer.model.load(trainer.model.whole_vector() + deltas[0])
        with torch.no_grad():
            probabilities = trainer.model.module(data.x_train[:4]).softmax(1)
        mass.append(float(probabilities[:, 2].mean()))
    assert mass[1] > mass[0] + 0.05
