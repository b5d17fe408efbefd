from __future__ import annotations

import numpy as np
import torch
from worlds import images

from fedguard.attacks.dpot import Dpot


def linear_model(side=12, classes=10):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(side * side, classes))
    with torch.no_grad():
        model[1].weight.copy_(
            torch.randn(classes, side * side, generator=torch.Generator().manual_seed(2))
        )
        model[1].bias.zero_()
    return model


def steepest64(model, x, target, pixels):
    """Where the loss leans most, from the formula of a linear model's slope."""
    weight = model[1].weight.detach().double().numpy()
    flat = x.flatten(1).double().numpy()
    logits = flat @ weight.T
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    share[:, target] -= 1.0
    slope = np.abs(share @ weight).mean(axis=0)
    return set(np.argsort(-slope)[:pixels].tolist())


def test_takes_the_places_of_the_largest_mean_slope():
    model, (x, y) = linear_model(), images(40)
    attack = Dpot(pixels=5, target_class=3, max_examples=100)
    attack.prepare(model, x, y, torch.Generator().manual_seed(1))
    places, _ = attack._places(x.shape)
    found = set(places.flatten().nonzero().flatten().tolist())
    assert found == steepest64(model, x[y != 3], 3, 5)


def test_the_model_already_obeys_and_only_the_places_change():
    model, (x, y) = linear_model(), images(60)
    attack = Dpot(pixels=20, target_class=3)
    before = float((model(attack.trigger(x)).argmax(dim=1) == 3).float().mean())
    attack.prepare(model, x, y, torch.Generator().manual_seed(1))
    stamped = attack.trigger(x)
    after = float((model(stamped).argmax(dim=1) == 3).float().mean())
    assert before < 0.6
    assert after > 0.95
    assert int((stamped != x).any(dim=0).sum()) <= 20
    assert float(stamped.min()) >= 0.0
    assert float(stamped.max()) <= 1.0


def test_a_round_starts_from_nothing_so_that_a_resumed_run_repeats_it():
    model, (x, y) = linear_model(), images(30)
    used, fresh = Dpot(steps=10), Dpot(steps=10)
    used.prepare(linear_model(classes=10), x[:10], y[:10], torch.Generator().manual_seed(9))
    for attack in (used, fresh):
        attack.prepare(model, x, y, torch.Generator().manual_seed(1))
    assert torch.equal(used.trigger(x), fresh.trigger(x))


def test_poisons_with_its_trigger():
    attack = Dpot(pixels=4, poison_fraction=0.5, target_class=7)
    x, y = images(20)
    poisoned, labels = attack.poison(x, y, torch.Generator().manual_seed(1))
    changed = (poisoned != x).flatten(1).any(dim=1)
    assert int(changed.sum()) == 10
    assert set(labels[changed].tolist()) == {7}
