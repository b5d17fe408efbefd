"""Attacks that close gaps of a survey: on fairness, robustness, by influence, by made noise."""

from __future__ import annotations

import pytest
import torch
from small_encoders import digits
from torch.func import functional_call
from torch.nn import functional

from fedguard.attacks.base import Scene
from fedguard.attacks.generative_noise import GenerativeNoise, NoiseMaker, _one_step
from fedguard.attacks.group_flip import GroupFlip
from fedguard.attacks.hypocritical import Hypocritical
from fedguard.attacks.influence_flip import InfluenceFlip, _Fitted, _standardised
from fedguard.attacks.toolkit.clean_label import Surrogate, trained_surrogate
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.metrics.adversarial import pgd_accuracy, pgd_examples
from fedguard.runs.simulation import Simulation


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def met(attack):
    data = digits()
    attack.bind(data.num_classes, data.input_shape)
    attack.meet(data)
    return attack, data


# --- influence ---------------------------------------------------------------------------------


def table(rows=60):
    draw = stream(1)
    x = torch.randn(rows, 4, generator=draw, dtype=torch.float64)
    y = (x[:, 0] + 0.7 * torch.randn(rows, generator=draw, dtype=torch.float64) > 0).long()
    return x, y + (x[:, 1] > 1.0).long()


def test_the_second_derivative_is_that_of_the_loss_and_is_solved():
    x, y = table()
    model = _Fitted.of(x, y, 3, 0.05)

    def loss(flat):
        weights = flat.view(3, 4)
        return functional.cross_entropy(x @ weights.T, y) + 0.025 * weights.square().sum()

    curve = torch.autograd.functional.hessian(loss, model.weights.flatten())
    assert float(torch.autograd.functional.jacobian(loss, model.weights.flatten()).norm()) < 1e-6
    way = torch.randn(3, 4, generator=stream(2), dtype=torch.float64)
    assert torch.allclose(curve @ way.flatten(), model.curved(way).flatten(), atol=1e-10)
    assert torch.allclose(curve @ model.solved(way).flatten(), way.flatten(), atol=1e-6)


def test_gains_are_what_training_again_with_one_flip_does_to_the_held_out_loss():
    x, y = table(400)
    attack = InfluenceFlip(weight_decay=0.05)
    attack.bind(3, (4,))
    gains, rows = attack.gains(x, y, stream()), _standardised(x)
    order = torch.randperm(400, generator=stream())
    held, kept = order[:120], order[120:]

    def held_loss(labels):
        model = _Fitted.of(rows[kept], labels[kept], 3, 0.05)
        return float(functional.cross_entropy(rows[held] @ model.weights.T, y[held]))

    clean = held_loss(y)
    told, real = [], []
    for row in kept[:25].tolist():
        label = (int(y[row]) + 1) % 3
        flipped = y.clone()
        flipped[row] = label
        told.append(float(gains[row, label]) / len(kept))
        real.append(held_loss(flipped) - clean)
    both = torch.tensor([told, real], dtype=torch.float64)
    assert float(torch.corrcoef(both)[0, 1]) > 0.99
    assert float((both[0] - both[1]).abs().max()) < 0.2 * float(both[1].abs().max())


def test_chosen_flips_hurt_a_model_more_than_drawn_ones():
    data = digits()
    x, y = data.x_train[:300], data.y_train[:300]
    attack = InfluenceFlip(poison_fraction=0.2)
    attack.bind(10, data.input_shape)
    _, chosen = attack.poison(x, y, stream())
    assert int((chosen != y).sum()) == 60
    drawn, some = y.clone(), torch.randperm(300, generator=stream(3))[:60]
    drawn[some] = (y[some] + torch.randint(1, 10, (60,), generator=stream(4))) % 10

    def accuracy(labels):
        rows = _standardised(torch.cat([x, data.x_test]).flatten(1).double())
        model = _Fitted.of(rows[:300], labels, 10, 0.01)
        found = (rows[300:] @ model.weights.T).argmax(dim=1)
        return float((found == data.y_test).double().mean())

    assert accuracy(chosen) < accuracy(drawn) - 0.05


# --- fairness ----------------------------------------------------------------------------------


def test_labels_of_the_group_alone_are_flipped():
    attack, data = met(GroupFlip(feature=20, poison_fraction=0.5))
    x, y = data.x_train[:200], data.y_train[:200]
    _, flipped = attack.poison(x, y, stream())
    changed, member = flipped != y, x.flatten(1)[:, 20] > attack.above
    assert int(changed.sum()) == round(0.5 * int(member.sum()))
    assert not bool(changed[~member].any())
    assert torch.equal(flipped[changed], (y[changed] + 1) % 10)


def test_the_gap_is_that_between_two_accuracies():
    attack, data = met(GroupFlip(feature=20))

    class Says(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.zero = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 10) + self.zero

    told = attack.measure(Scene(Says(), {}, None))
    member, zero = attack.members(data.x_test), data.y_test == 0
    assert told["group_accuracy"] == pytest.approx(float(zero[member].double().mean()))
    assert told["others_accuracy"] == pytest.approx(float(zero[~member].double().mean()))
    assert told["accuracy_gap"] == told["others_accuracy"] - told["group_accuracy"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"feature": 64}, "0 to 63"), ({"feature": 3, "above": 5.0}, "part the test rows; 5 does")],
)
def test_a_group_that_is_none_is_refused(arguments, told):
    with pytest.raises(ConfigurationError, match=told):
        met(GroupFlip(**arguments))


# --- robustness --------------------------------------------------------------------------------


def test_moved_pictures_stay_near_and_are_harder_or_easier():
    attack, data = met(Hypocritical())
    x, y = data.x_train[:100], data.y_train[:100]
    surrogate = trained_surrogate(attack.shown(x), y, 10, stream(), epochs=3)

    def model(images):
        return surrogate(attack.shown(images))

    losses = []
    for towards in (True, False):
        moved = pgd_examples(model, x, y, eps=0.1, steps=5, towards=towards)
        assert float((moved - x).abs().max()) <= 0.1 + 1e-6
        assert 0.0 <= float(moved.min()) <= float(moved.max()) <= 1.0
        losses.append(float(functional.cross_entropy(model(moved), y)))
    assert losses[0] < float(functional.cross_entropy(model(x), y)) < losses[1]
    clean = float((model(x).argmax(dim=1) == y).double().mean())
    assert pgd_accuracy(model, x, y, eps=0.1, steps=5) < clean
    assert pgd_accuracy(model, x, y, eps=1e-9, steps=1) == clean


# --- made noise --------------------------------------------------------------------------------


def untaught():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NoiseMaker(1, 16)


def test_noise_is_learnt_that_makes_the_next_step_worse_on_clean_pictures():
    attack, data = met(GenerativeNoise(eps=0.5, trials=2, epochs=2))
    x, y = data.x_train[:100], data.y_train[:100]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = Surrogate(1, 10)
    start = {name: value.detach() for name, value in model.named_parameters()}

    def after_a_step(maker):
        ahead = _one_step(model, start, attack.shown(attack._noisy(maker, x)), y)
        return float(functional.cross_entropy(functional_call(model, ahead, attack.shown(x)), y))

    assert after_a_step(attack.learnt(x, y, stream())) > after_a_step(untaught()) + 0.02


@pytest.mark.slow
def test_noise_is_learnt_that_misleads_a_network_trained_on_it():
    attack, data = met(GenerativeNoise(trials=20))
    x, y = data.x_train[:200], data.y_train[:200]
    maker = attack.learnt(x, y, stream())

    def accuracy(pictures):
        model = trained_surrogate(attack.shown(pictures), y, 10, stream(5), epochs=6)
        found = model(attack.shown(data.x_test)).argmax(dim=1)
        return float((found == data.y_test).double().mean())

    with torch.no_grad():
        taught, control = attack._noisy(maker, x), attack._noisy(untaught(), x)
    assert accuracy(taught) < accuracy(control) - 0.1


# --- in runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "figure"),
    [
        ({"name": "group-flip", "feature": 20}, "accuracy_gap"),
        ({"name": "hypocritical", "epochs": 2, "steps": 3}, "robust_accuracy"),
        ({"name": "generative-noise", "epochs": 1, "trials": 1}, "accuracy"),
        ({"name": "influence-flip"}, "accuracy"),
    ],
)
def test_each_runs_and_its_figure_is_kept(tmp_path, attack, figure):
    values = {"clients": 4, "malicious": 0.5, "rounds": 1, "partition": "iid", "attack": attack}
    summary = Simulation(parse(values)).run(tmp_path)
    assert isinstance(summary["final"][figure], float)
