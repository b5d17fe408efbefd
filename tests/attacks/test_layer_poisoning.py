from __future__ import annotations

import torch
from worlds import a_round, images

from fedguard.attacks.layer_poisoning import LayerPoisoning, layer_names, with_layers
from fedguard.attacks.toolkit.own_training import change_of, trained


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(144, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
        )


def test_layers_are_modules_and_can_be_exchanged():
    base, other = network(0), network(1)
    assert layer_names(base) == ["1", "3"]
    mixed = with_layers(base, other, {"3"})
    assert torch.equal(mixed[1].weight, base[1].weight)
    assert torch.equal(mixed[3].weight, other[3].weight)
    assert torch.equal(mixed[3].bias, other[3].bias)
    assert not torch.equal(base[3].weight, other[3].weight)


class Rated(LayerPoisoning):
    """Success as a table: how much of the backdoor each set of poisoned layers carries."""

    def __init__(self, carries, **more):
        super().__init__(**more)
        self.carries, self.asked = carries, []

    def _success(self, model, stamped):
        poisoned = frozenset(
            name for name, module in model.named_children() if float(module.weight[0, 0]) == 1.0
        )
        self.asked.append(poisoned)
        return self.carries(poisoned)


def marked(value):
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(4)))
    with torch.no_grad():
        for module in model:
            module.weight.fill_(value)
    return model


def test_adds_layers_by_the_drop_that_their_absence_makes_until_enough_is_back():
    worth = {"0": 0.05, "1": 0.5, "2": 0.3, "3": 0.1}
    attack = Rated(lambda layers: sum(worth[name] for name in layers), tau=0.8)
    found = attack._critical(marked(0.0), marked(1.0), torch.zeros(1))
    # 0.5 + 0.3 = 0.8 of 0.95 reaches 0.8 of it; the largest drops are of 1, then 2.
    assert found == ["1", "2"]
    assert Rated(lambda layers: 0.0)._critical(marked(0.0), marked(1.0), torch.zeros(1)) == []


def test_sends_the_backdoor_in_the_chosen_layers_and_honest_updates_elsewhere():
    model, (x, y) = network(), images(60)
    attack = LayerPoisoning(size=3, epochs=30, boost=2.0, target_class=4)
    attack.prepare(model, x, y, torch.Generator().manual_seed(3))
    attack.critical = ["3"]
    inside = torch.zeros(144 * 16 + 16 + 16 * 10 + 10, dtype=torch.bool)
    inside[144 * 16 + 16 :] = True
    attack._mask = inside
    honest = 0.01 * torch.randn(4, len(inside), generator=torch.Generator().manual_seed(1))
    coalition, seen = a_round(honest, 2)
    sent = attack.craft(coalition, seen)
    own = coalition.deltas
    assert torch.equal(sent[:, ~inside], own[:, ~inside])
    wanted = own + 2.0 * (attack._change - own)
    torch.testing.assert_close(sent[:, inside], wanted[:, inside])


def test_the_models_learn_the_backdoor_and_its_layers_are_found():
    model, (x, y) = network(), images(200)
    attack = LayerPoisoning(size=4, epochs=40, target_class=4, poison_fraction=0.5)
    attack.prepare(model, x, y, torch.Generator().manual_seed(3))
    assert attack.critical
    assert attack._mask is not None
    assert bool(attack._mask.any())
    assert attack._change is not None
    planted = network()
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(planted.parameters()) + attack._change,
            planted.parameters(),
        )
    stamped = attack.trigger(x[y != 4])
    assert attack._success(planted, stamped) > 0.8
    assert attack._success(model, stamped) < 0.5


def test_clients_train_honestly_and_send_so_without_a_look_at_the_model():
    attack = LayerPoisoning()
    x, y = images(10)
    assert attack.poison(x, y, torch.Generator()) == (x, y)
    coalition, seen = a_round(torch.ones(4, 9), 2)
    assert attack.craft(coalition, seen) is coalition.deltas


def test_an_attackers_training_is_plain_descent_and_leaves_the_model_alone():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 10))
    x, y = images(20)
    before = [value.detach().clone() for value in model.parameters()]
    student = trained(model, x, y, torch.Generator(), epochs=1, lr=0.1, batch_size=20)
    loss = torch.nn.functional.cross_entropy(model(x), y)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    wanted = torch.cat([-0.1 * slope.flatten() for slope in slopes])
    torch.testing.assert_close(change_of(student, model), wanted, rtol=1e-4, atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
