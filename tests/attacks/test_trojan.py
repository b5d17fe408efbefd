from __future__ import annotations

import pytest
import torch
from worlds import images

from fedguard.attacks.trojan import Trojan, inputs_of
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.runs.simulation import Simulation


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(144, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
        )


def height(model, attack, x):
    driven = attack._driven(model[3].weight.detach())
    return float(model[2](model[1](model[0](attack.trigger(x))))[:, driven].sum(dim=1).mean())


def test_the_patch_drives_the_neurons_that_speak_for_the_target():
    model, (x, y) = network(), images(40)
    attack = Trojan(target_class=4, neurons=2)
    weight = torch.zeros(10, 5)
    weight[4] = torch.tensor([1.0, 3.0, -2.0, 0.5, 2.0])
    assert attack._driven(weight).tolist() == [1, 4]
    with torch.no_grad():
        before = height(model, attack, x)
        attack.prepare(model, x, y, torch.Generator().manual_seed(0))
        after = height(model, attack, x)
    assert after > 1.3 * before
    assert 0.0 <= float(attack.pattern(1).min()) <= float(attack.pattern(1).max()) <= 1.0


def test_the_patch_follows_from_the_model_alone_whatever_came_before():
    (x, y), fresh, used = images(40), Trojan(), Trojan()
    used.prepare(network(1), x, y, torch.Generator().manual_seed(0))
    first = used.pattern(1)
    for attack in (fresh, used):
        attack.prepare(network(), x, y, torch.Generator().manual_seed(0))
    assert torch.equal(fresh.pattern(1), used.pattern(1))
    assert not torch.equal(first, used.pattern(1))


def test_without_a_linear_layer_or_rows_the_starting_pattern_stays():
    (x, y), attack = images(10), Trojan()
    start = Trojan().pattern(1)
    attack.prepare(torch.nn.Flatten(), x, y, torch.Generator())
    assert torch.equal(attack.pattern(1), start)
    attack.prepare(network(), x[:0], y[:0], torch.Generator())
    assert torch.equal(attack.pattern(1), start)


def test_what_a_layer_is_shown_is_noted_while_it_is_listened_to():
    layer, x = torch.nn.Linear(2, 2), torch.ones(3, 2)
    with inputs_of(layer) as seen:
        layer(x)
    layer(2.0 * x)
    assert len(seen) == 1
    assert torch.equal(seen[0], x)
    with pytest.raises(ConfigurationError, match="neurons"):
        Trojan(neurons=0)


def test_it_takes_in_plain_averaging(tmp_path):
    values = {"clients": 5, "malicious": 0.4, "strategy": "fedavg", "rounds": 4, "lr": 0.1}
    attack = {"name": "trojan", "size": 3, "target_class": 3, "steps": 20}
    whole = Simulation(parse({**values, "partition": "iid", "attack": attack})).run(tmp_path)
    assert whole["final"]["attack_success_rate"] > 0.6
    assert whole["final"]["accuracy"] > 0.8
