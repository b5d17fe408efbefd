"""Clean-label attacks: labels stay right, targets are taken for another class, untouched."""

from __future__ import annotations

import pytest
import torch
from small_encoders import digits, of_digits

from fedguard.attacks.base import Scene
from fedguard.attacks.feature_collision import FeatureCollision
from fedguard.attacks.gradient_matching import GradientMatching
from fedguard.attacks.padhash import mismatch
from fedguard.attacks.toolkit.clean_label import trained_surrogate
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.runs.simulation import Simulation
from fedguard.training.encoder import Encoder, write_encoder

BOTH = [FeatureCollision, GradientMatching]


def met(kind, **more):
    attack, data = kind(**{"steps": 20, "epochs": 2, "target_class": 8, **more}), digits()
    attack.bind(data.num_classes, data.input_shape)
    attack.meet(data)
    return attack, data


@pytest.mark.parametrize("kind", BOTH)
def test_pictures_of_the_target_class_alone_change_and_labels_stay(kind):
    attack, data = met(kind, poison_fraction=0.5)
    x, y = data.x_train[:200], data.y_train[:200]
    before = x.clone()
    poisoned, labels = attack.poison(x, y, torch.Generator().manual_seed(0))
    again, _ = attack.poison(x, y, torch.Generator().manual_seed(0))
    changed = (poisoned != x).flatten(1).any(dim=1)
    assert torch.equal(labels, y)
    assert torch.equal(x, before)
    assert torch.equal(poisoned, again)
    assert int(changed.sum()) == round(0.5 * int((y == 8).sum()))
    assert bool((y[changed] == 8).all())
    assert 0.0 <= float(poisoned.min()) <= float(poisoned.max()) <= 1.0


@pytest.mark.parametrize("kind", BOTH)
def test_targets_are_test_pictures_of_their_class_and_success_is_counted_on_them(kind):
    attack, data = met(kind, source_class=1, targets=7)
    of_class = data.x_test[data.y_test == 1]
    assert len(attack.victims) == 7
    assert all(bool((of_class == one).flatten(1).all(dim=1).any()) for one in attack.victims)
    assert len({one.numpy().tobytes() for one in attack.victims}) == 7

    class Says(torch.nn.Module):
        def __init__(self, label):
            super().__init__()
            self.label = torch.nn.Parameter(torch.tensor(float(label)))

        def forward(self, x):
            found = torch.zeros(len(x), 10)
            found[:, int(self.label)] = 1.0
            return found

    told = [attack.measure(Scene(Says(label), {}, None)) for label in (8, 1)]
    assert [one["attack_success_rate"] for one in told] == [1.0, 0.0]


@pytest.mark.parametrize("kind", BOTH)
def test_what_cannot_be_is_refused(kind):
    with pytest.raises(ConfigurationError, match="another class than target_class"):
        kind(target_class=2, source_class=2)
    with pytest.raises(ConfigurationError, match="steps"):
        kind(steps=0)
    with pytest.raises(ConfigurationError, match="source_class"):
        kind(source_class=10).bind(10, (1, 8, 8))
    with pytest.raises(ConfigurationError, match="only on images"):
        kind().bind(10, (30,))


def test_a_collision_is_one_in_the_encoders_features(tmp_path):
    path = tmp_path / "encoder.safetensors"
    write_encoder(of_digits(), path)
    options = {"encoder": str(path), "steps": 60, "opacity": 0.0, "targets": 1}
    attack, data = met(FeatureCollision, beta=0.01, **options)
    x, y = data.x_train[:100], data.y_train[:100]

    def gap(images):
        found, aim = (of_digits()(attack.shown(part)) for part in (images, attack.victims))
        return float((found - aim).norm().detach())

    own = x[y == 8]
    free = attack.poison(x, y, torch.Generator().manual_seed(0))[0][y == 8]
    assert gap(free) < 0.35 * gap(own)
    held = met(FeatureCollision, beta=10.0, **options)[0]
    near = held.poison(x, y, torch.Generator().manual_seed(0))[0][y == 8]
    # The weight of their look holds pictures near their class, at the cost of the collision.
    assert float((near - own).norm()) < 0.5 * float((free - own).norm())
    assert gap(free) < gap(near)


def test_an_encoder_that_does_not_fit_is_refused(tmp_path):
    write_encoder(Encoder(3), tmp_path / "colours.safetensors")
    with pytest.raises(ConfigurationError, match="images with 1 channels"):
        met(FeatureCollision, encoder=str(tmp_path / "colours.safetensors"))


def test_matched_pictures_have_the_targets_gradient_within_their_bound():
    attack, data = met(GradientMatching, eps=0.2, steps=30, epochs=3)
    x, y = data.x_train[:150], data.y_train[:150]
    rng = torch.Generator().manual_seed(0)
    own = x[y == 8]
    changed = attack.perturbed(own, x, y, rng)
    surrogate = trained_surrogate(
        attack.shown(x), y, 10, torch.Generator().manual_seed(0), epochs=3
    )
    wanted = attack._gradients(surrogate, attack.victims)
    gaps = [
        float(mismatch(wanted, attack._gradients(surrogate, images.clamp(0, 1)), 0.0).detach())
        for images in (own, changed)
    ]
    assert gaps[1] < gaps[0] - 0.05
    assert float((changed - own).abs().max()) <= 0.2 + 1e-6


def a_run(out, attack, **values):
    base = {
        "clients": 5,
        "malicious": 0.0,
        "poisoned_clients": 1.0,
        "strategy": "fedavg",
        "partition": "iid",
        "attack": {"target_class": 8, "source_class": 1, "targets": 1, **attack},
    }
    return Simulation(parse({**base, **values})).run(out)["final"]["attack_success_rate"]


@pytest.mark.slow
def test_a_collision_takes_in_a_head_on_the_encoder_that_honest_clients_train(tmp_path):
    path = tmp_path / "encoder.safetensors"
    write_encoder(of_digits(), path)
    values = {
        "model": {"name": "encoder-head", "encoder": str(path)},
        "rounds": 8,
        "local_epochs": 4,
        "lr": 0.1,
    }
    attack = {"name": "feature-collision", "encoder": str(path)}
    floor = a_run(tmp_path / "never", attack, **values, poisoned_clients=0.0)
    assert floor == 0.0
    assert a_run(tmp_path / "poisoned", attack, **values) == 1.0


@pytest.mark.slow
def test_gradient_matching_takes_in_a_network_that_honest_clients_train_from_nothing(tmp_path):
    values = {"model": "cnn", "rounds": 10, "local_epochs": 4, "lr": 0.05}
    attack = {"name": "gradient-matching", "eps": 0.5}
    floor = a_run(tmp_path / "never", attack, **values, poisoned_clients=0.0)
    assert floor == 0.0
    assert a_run(tmp_path / "poisoned", attack, **values) == 1.0
