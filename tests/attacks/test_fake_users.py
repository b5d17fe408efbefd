from __future__ import annotations

import pytest
import torch
from torch import nn

from fedguard import registry
from fedguard.attacks.base import Scene
from fedguard.data.clicks_sample import ClicksSample
from fedguard.errors import ConfigurationError
from fedguard.metrics.ranking import mean_jaccard, unique_share
from fedguard.models.build import build
from fedguard.testing import check_attack

NAMES = ("random-profiles", "bandwagon", "repeat-target", "ddsp")


@pytest.fixture(scope="module")
def data():
    return ClicksSample(users=60, items=90, shops=5, length=12).load(None)


@pytest.fixture(scope="module")
def model(data):
    return build(
        "sasrec",
        data.input_shape,
        data.num_classes,
        0,
        sample=data.x_train[:2],
        fault=lambda _: None,
        width=16,
    )


def attack(data, name, model=None, **arguments):
    found = registry.create("attack", name, **{"length": 20, "item": "item-040", **arguments})
    found.bind(data.num_classes, data.input_shape)
    found.meet(data)
    if model is not None:
        found.prepare(model, data.x_train[:30], data.y_train[:30], torch.Generator())
    return found


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
def test_fake_users_pass_the_conformance_suite(name):
    check_attack(lambda: registry.create("attack", name))


@pytest.mark.parametrize("name", NAMES)
def test_a_shop_adds_fakes_and_keeps_its_users(data, model, name):
    part = attack(data, name, model if name == "ddsp" else None, fake_users=0.1)
    x, y = data.x_train[:20], data.y_train[:20]
    more_x, more_y = part.poison(x, y, stream())
    assert torch.equal(more_x[:20], x)
    assert torch.equal(more_y[:20], y)
    assert len(more_x) == len(more_y) == 20 + 6
    again = part.poison(x, y, stream())
    assert torch.equal(again[0], more_x)
    fakes = more_x[20:]
    # Of the last 12 items of 20, every fourth is the target.
    assert bool(((fakes == 40).sum(dim=1) >= 3).all())
    assert torch.equal(more_y[20:, :11], fakes[:, 1:])
    assert more_y[20:, -1].tolist() == [-1] * 6


@pytest.mark.parametrize("name", NAMES)
def test_a_client_of_one_user_becomes_a_fake(data, model, name):
    part = attack(data, name, model if name == "ddsp" else None)
    x, _ = part.poison(data.x_train[:1], data.y_train[:1], stream())
    assert len(x) == 1
    assert not torch.equal(x, data.x_train[:1])
    assert int((x == 40).sum()) >= 3


def test_profiles_differ_as_their_names_say(data, model):
    shares = {}
    for name, arguments in (
        ("random-profiles", {}),
        ("repeat-target", {}),
        ("ddsp", {"spread": 0.5}),
        ("ddsp", {"diversity": False}),
    ):
        part = attack(data, name, model if name == "ddsp" else None, **arguments)
        fakes = torch.tensor(part.invented(6, stream()))
        assert tuple(fakes.shape) == (6, 20)
        shares[name, *arguments] = unique_share(fakes), mean_jaccard(fakes)
    assert shares["random-profiles",][0] == pytest.approx(16 / 20)
    assert shares["repeat-target",] == (pytest.approx(1 / 20), 1.0)
    assert shares["ddsp", "spread"][0] == pytest.approx(16 / 20)
    assert shares["ddsp", "diversity"][0] < 0.6


def test_bandwagon_takes_popular_items_alone(data):
    part = attack(data, "bandwagon", popular=0.3)
    popular = set(
        (data.facts.popularity[1:].argsort(descending=True, stable=True) + 1)[:27].tolist()
    )
    for history in part.invented(3, stream()):
        assert set(history) - {40} <= popular
        assert len(set(history)) == 16


def test_crafted_histories_climb_towards_their_aim(data, model):
    """Each chosen item is the one that the readable form of the rule chooses."""
    part = attack(data, "ddsp", model, dual=False, diversity=False)
    history = part.invented(1, stream())[0]
    table, seen = model.items.weight.detach(), data.x_train[:30]
    states = nn.functional.normalize(model.eval().states(seen)[:, -1], dim=1).detach()
    seed = int(torch.randint(30, (), generator=stream()))
    # One fake of 60 users' 2 %: all 30 users who are seen are imitated.
    aim = nn.functional.normalize(states[(states @ states[seed]).topk(30).indices].mean(0), dim=0)
    scores = model.following(torch.tensor([[0] * 11 + history[:1]]))[0].detach()
    scores[0] = scores[40] = -torch.inf
    best, chosen = -2.0, 0
    for option in scores.topk(60).indices.tolist():
        state = model.states(torch.tensor([[0] * 10 + [history[0], option]]))[0, -1].detach()
        merit = float(nn.functional.normalize(state, dim=0) @ aim)
        if merit > best:
            best, chosen = merit, option
    assert history[1] == chosen
    assert history[3] == 40
    assert len(table) == 91


def test_the_dual_direction_points_from_the_target_to_what_users_like(data, model):
    part = attack(data, "ddsp", model, weight=0.0)
    table = nn.functional.normalize(model.items.weight.detach(), dim=1)
    liked = table[[3, 9]].mean(dim=0)
    expected = nn.functional.normalize(liked - table[40], dim=0)
    assert torch.allclose(part._direction(table, liked), expected, atol=1e-6)
    contrast = attack(data, "ddsp", model, weight=1e6)._direction(table, liked)
    shares = (table[1:] @ table[40] / 0.15).softmax(dim=0)
    expected = nn.functional.normalize(liked - shares @ table[1:], dim=0)
    assert torch.allclose(contrast, expected, atol=1e-4)


class Order(nn.Module):
    """Scores every item by its number, the target by what is given."""

    def __init__(self, items, target):
        super().__init__()
        scores = torch.arange(items).float()
        scores[40] = target
        self.scores = nn.Parameter(scores)

    def forward(self, x):
        return self.scores.expand(*x.shape, -1)


def test_success_is_measured_over_users_who_never_met_the_target(data):
    part = attack(data, "random-profiles")
    users = [u for u in range(60) if 40 not in data.x_train[u].tolist()]
    # Histories here are not longer than the row, but for those that were cut.
    facts = data.facts
    users = [
        u for u in users if 40 not in facts.met[facts.offsets[u] : facts.offsets[u + 1]].tolist()
    ]
    ranks = []
    for user in users:
        met = set(facts.met[facts.offsets[user] : facts.offsets[user + 1]].tolist())
        ranks.append(sum(item > 70 and item not in met for item in range(1, 91)))
    found = part.measure(Scene(Order(91, 70.5), {}, None))
    assert found["er@10"] == pytest.approx(sum(rank < 10 for rank in ranks) / len(ranks))
    assert found["er@50"] == pytest.approx(1.0)
    assert found["target_rank"] == pytest.approx(
        float(torch.tensor(ranks).double().quantile(0.5)) + 1
    )
    assert found["attack_success_rate"] == found["er@10"]
    assert part.measure(Scene(Order(91, 1e9), {}, None))["target_rank"] == 1.0


def test_targets_are_named_by_title_or_id_or_drawn_among_the_rare(data):
    assert attack(data, "random-profiles", item="ITEM-007").target == 7
    assert attack(data, "random-profiles", item="12").target == 12
    with pytest.raises(ConfigurationError, match=r"item: 'item-04' .*did you mean 'item-0"):
        attack(data, "random-profiles", item="item-04")
    drawn = {attack(data, "random-profiles", item=None, target_seed=s).target for s in range(8)}
    assert len(drawn) > 1
    assert all(5 <= int(data.facts.popularity[item]) <= 12 for item in drawn)


def test_a_model_without_an_item_table_is_refused(data):
    part = attack(data, "ddsp")
    with pytest.raises(ConfigurationError, match=r"model: 'Linear' .*such as sasrec"):
        part.prepare(nn.Linear(2, 2), data.x_train, data.y_train, torch.Generator())
