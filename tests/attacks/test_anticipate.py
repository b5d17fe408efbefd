from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from worlds import a_round, images

from fedguard.attacks.anticipate import Anticipate, moved_by
from fedguard.attacks.badnets import BadNets
from fedguard.attacks.toolkit.own_training import trained
from fedguard.errors import ConfigurationError


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(144, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
        )


SIZE = 144 * 16 + 16 + 16 * 10 + 10


def success(model, attack, x, y):
    shown = attack.trigger(x[y != attack.target_class])
    return float((model(shown).argmax(dim=1) == attack.target_class).double().mean())


def rows(count=200):
    """Pictures whose classes can be told: class c is bright in row c."""
    x, y = images(count)
    x = 0.3 * x
    x[torch.arange(count), 0, y] += 0.6
    return x, y


def test_a_model_moves_by_a_change_in_its_own_order():
    model = network()
    change = torch.arange(SIZE, dtype=torch.float32)
    moved = moved_by(model, change)
    gone = [new - old for new, old in zip(moved.parameters(), model.parameters(), strict=True)]
    torch.testing.assert_close(
        torch.cat([part.flatten() for part in gone]).detach(), change, rtol=1e-3, atol=1e-3
    )


def test_the_backdoor_outlives_the_repair_that_it_foresaw_better_than_one_that_foresaw_none():
    x, y = rows()
    model = trained(network(), x, y, torch.Generator().manual_seed(0), epochs=10, lr=0.1)
    left = {}
    for weight in (0.0, 1.0):
        attack = Anticipate(size=3, weight=weight, epochs=15, ahead_epochs=8, target_class=4)
        attack.prepare(model, x, y, torch.Generator().manual_seed(1))
        planted = moved_by(model, attack.change)
        assert success(planted, attack, x, y) > 0.8
        mended = trained(planted, x, y, torch.Generator().manual_seed(2), epochs=8, lr=0.1)
        shown = attack.trigger(x[y != 4])
        aim = torch.full((len(shown),), 4)
        left[weight] = float(functional.cross_entropy(mended(shown), aim).detach())
    assert left[1.0] < left[0.0]


def test_what_is_judged_is_the_backdoor_before_the_repair_and_after_it():
    (x, y), model = rows(100), network()
    attack = Anticipate(size=3, epochs=1, target_class=4)
    stream = torch.Generator().manual_seed(1)
    order = torch.randperm(len(y), generator=stream)
    shift = attack._shift(model, x[order], y[order], stream)
    mixed, labels = BadNets.poison(attack, x[order], y[order], stream)
    attack.prepare(model, x, y, torch.Generator().manual_seed(1))
    planted = moved_by(model, attack.change).eval()
    now = float(functional.cross_entropy(planted(mixed), labels).detach())
    with torch.no_grad():
        for name, value in planted.named_parameters():
            value.add_(shift[name])
    later = float(functional.cross_entropy(planted(mixed), labels).detach())
    assert abs(now - later) > 0.01
    assert attack._loss(attack.change) == pytest.approx(now + later, rel=1e-5)


def test_the_factor_is_the_one_after_which_the_rehearsed_model_is_best():
    attack = Anticipate(most=8.0, evaluations=3)
    attack.change = torch.ones(SIZE)
    asked = []

    def loss(change):
        asked.append(float(change.mean()))
        return abs(float(change.mean()) - 1.0)

    attack._loss = loss
    coalition, seen = a_round(
        torch.zeros(4, SIZE), 2, aggregate=lambda updates: updates.deltas.mean(dim=0)
    )
    sent = attack.craft(coalition, seen)
    # Half of the cohort sends a: the mean moves by a / 2; 2, 4 and 8 are not all tried in vain.
    assert float(sent[0].mean()) == pytest.approx(2.0 * min(asked, key=lambda a: abs(a - 1.0)))
    assert torch.equal(sent[0], sent[1])


def test_clients_train_honestly_and_send_so_without_a_look_at_the_model():
    attack, (x, y) = Anticipate(), images(10)
    assert attack.poison(x, y, torch.Generator()) == (x, y)
    coalition, seen = a_round(torch.ones(4, 9), 2)
    assert attack.craft(coalition, seen) is coalition.deltas
    attack.prepare(network(), x[:0], y[:0], torch.Generator())
    assert attack.change is None


def test_what_cannot_be_is_refused():
    for wrong in ({"weight": -1.0}, {"most": 0.0}, {"evaluations": 0}, {"ahead_epochs": -1}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            Anticipate(**wrong)
