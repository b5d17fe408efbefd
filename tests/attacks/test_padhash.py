"""Gradient matching by hand and by finite differences; what poisons may and may not change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedguard.attacks.padhash import Padhash, mismatch
from fedguard.data.digits import Digits
from fedguard.errors import ConfigurationError
from fedguard.tasks.hashing import ImageRetrieval


@pytest.fixture(scope="module")
def data():
    return ImageRetrieval(bits=16).load(None)


def network(width=16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 16))


def attack_on(data, **arguments):
    attack = Padhash(**{"target_class": 8, "queries": 5, "steps": 10, "epochs": 2, **arguments})
    attack.meet(data)
    return attack


def test_the_mismatch_by_hand():
    one, other = [torch.tensor([3.0]), torch.tensor([0.0])], [torch.tensor([0.0, 2.0])]
    gap = math.sqrt(9 + 4) / 6
    assert float(mismatch(one, other, 0.2)) == pytest.approx(0.8 * 1.0 + 0.2 * gap, rel=1e-5)
    assert float(mismatch(one, one, 0.5)) == pytest.approx(0.0, abs=1e-6)
    double = [2 * part for part in one]
    assert float(mismatch(one, double, 0.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(mismatch(one, double, 1.0)) == pytest.approx(3 / 18, rel=1e-5)


def test_the_slope_of_the_mismatch_equals_finite_differences(data):
    attack, model = attack_on(data), network(6).double()
    facts = data.facts
    x = data.x_train[data.y_train == 8][:2].double()
    wanted = [part.detach() for part in attack.gradients(model, data.x_test[:3].double())]

    def gap(shown):
        return mismatch(wanted, attack.gradients(model, shown), 0.2)

    x.requires_grad_()
    (slope,) = torch.autograd.grad(gap(x), x)
    for place in (3, 20, 77):
        nudge = torch.zeros_like(x).flatten()
        nudge[place] = 1e-5
        nudge = nudge.view_as(x)
        told = float(gap(x.detach() + nudge) - gap(x.detach() - nudge)) / 2e-5
        assert float(slope.flatten()[place]) == pytest.approx(told, rel=1e-3, abs=1e-7)
    assert facts.codes.dtype == torch.float32


def poisoned(data, **arguments):
    attack, rows = attack_on(data, **arguments), torch.arange(300)
    x, y = data.x_train[rows], data.y_train[rows]
    before = x.clone()
    attack.prepare(network(), x, y, torch.Generator().manual_seed(0))
    found, labels = attack.poison(x, y, torch.Generator().manual_seed(1))
    assert torch.equal(x, before)
    assert torch.equal(labels, y)
    return attack, x, y, found


@pytest.mark.parametrize("crafted", ["static", "dynamic", "noise"])
def test_only_pixels_of_the_target_class_change_by_at_most_eps(data, crafted):
    _, x, y, found = poisoned(data, crafted=crafted, eps=0.1)
    assert torch.equal(found[y != 8], x[y != 8])
    change = (found - x)[y == 8].abs()
    assert 0.01 < float(change.max()) <= 0.1 + 1e-6
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0
    assert bool((change.flatten(1).max(dim=1).values > 0).all())


def test_a_share_of_them_changes(data):
    _, x, y, found = poisoned(data, poison_fraction=0.5, crafted="noise")
    changed = (found != x).flatten(1).any(dim=1)
    assert int(changed.sum()) == round(0.5 * int((y == 8).sum()))


def test_copies_are_further_pictures_of_the_target_class(data):
    attack = attack_on(data, copies=3, eps=0.1)
    x, y = data.x_train[:300], data.y_train[:300]
    attack.prepare(network(), x, y, torch.Generator())
    found, labels = attack.poison(x, y, torch.Generator().manual_seed(1))
    own = int((y == 8).sum())
    assert len(found) == len(labels) == 300 + 2 * own
    assert torch.equal(labels[:300], y)
    assert labels[300:].tolist() == [8] * (2 * own)
    assert torch.equal(found[:300][y != 8], x[y != 8])
    change = (found[300:] - x[y == 8].repeat(2, 1, 1, 1)).abs()
    assert float(change.max()) <= 0.1 + 1e-6
    assert not torch.equal(found[300 : 300 + own], found[300 + own :])


def test_matching_brings_the_gradients_together_more_than_noise(data):
    attack, x, y, found = poisoned(data, crafted="dynamic", steps=40)
    model, victims = network(), attack._victims
    wanted = attack.gradients(model, victims)

    def gap(shown):
        return float(mismatch(wanted, attack.gradients(model, shown), 0.0).detach())

    noisy = poisoned(data, crafted="noise")[3]
    assert gap(found[y == 8]) < gap(x[y == 8]) - 0.05
    assert gap(found[y == 8]) < gap(noisy[y == 8]) - 0.05


def test_the_static_surrogate_is_the_same_in_every_round_and_process(data):
    rows = torch.arange(200)
    x, y = data.x_train[rows], data.y_train[rows]
    kept = []
    for seed in (1, 2):
        attack, model = attack_on(data), network()
        with torch.no_grad():
            model[1].weight.mul_(seed)  # another round's model
        attack.prepare(model, x, y, torch.Generator().manual_seed(seed))
        kept.append(attack.poison(x, y, torch.Generator().manual_seed(9))[0])
    assert torch.equal(*kept)


def test_queries_are_of_other_classes(data):
    attack = attack_on(data, queries=20)
    places = [int((data.x_test == v).flatten(1).all(dim=1).nonzero()[0]) for v in attack._victims]
    assert len(set(places)) == 20
    assert 8 not in data.y_test[places].tolist()


@pytest.mark.parametrize(
    "arguments",
    [{"eps": 0.0}, {"weight": 1.5}, {"crafted": "magic"}, {"queries": 0}, {"copies": 0}],
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ConfigurationError):
        Padhash(**arguments)


def test_data_that_are_not_retrieved_are_refused():
    with pytest.raises(ConfigurationError, match="--dataset retrieval"):
        Padhash().meet(Digits().load(None))
