"""T-Core: sifting by company, the pool that grows, channels drawn anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedguard.errors import ConfigurationError
from fedguard.models.flat import FlatModel
from fedguard.training.base import Local, TrainingSettings
from fedguard.training.reopening import (
    channel_masks,
    filters,
    forgotten,
    lowest,
    make_anew,
    masked,
)
from fedguard.training.sifting import consistency, in_largest_cluster, nearest, seed_rows
from fedguard.training.t_core import GROWN, POOL, SEEN, TCore, admissible


def blobs(counts, spread=0.05, seed=0):
    """Return features around one direction per group, (N, 8), and each row's group."""
    stream = torch.Generator().manual_seed(seed)
    centres = torch.eye(8)[: len(counts)]
    group = torch.cat([torch.full((n,), g) for g, n in enumerate(counts)])
    return centres[group] + spread * torch.randn(len(group), 8, generator=stream), group


def test_neighbours_and_consistency_by_hand():
    distances, found = nearest(torch.tensor([[0.0], [1.0], [3.0]]), 1)
    assert found.flatten().tolist() == [1, 0, 1]
    assert distances.diagonal().tolist() == [0.0, 0.0, 0.0]
    assert distances[0, 2] == 3.0
    other = torch.tensor([[2], [0], [1]])
    assert consistency([found, other]).tolist() == [0.0, 1.0, 1.0]
    assert consistency([found]).tolist() == [1.0, 1.0, 1.0]
    both = torch.tensor([[1, 2], [0, 2], [0, 1]]), torch.tensor([[1, 2], [2, 0], [1, 0]])
    assert consistency(both).tolist() == [1.0, 1.0, 1.0]


def test_the_largest_cluster_is_the_majority():
    x, group = blobs([30, 12])
    distances, _ = nearest(x, 10)
    inside = in_largest_cluster(distances, 0.5)
    assert inside.tolist() == (group == 0).tolist()
    assert bool(in_largest_cluster(distances, 0.0).all())
    assert bool(in_largest_cluster(distances, 1e-6).all())  # no cluster at all


def test_the_seed_of_a_class_comes_from_its_majority():
    x, group = blobs([60, 25, 40])
    y = torch.tensor([0, 0, 1])[group]  # 25 rows of class 0 are strangers to it
    seed, skipped = seed_rows([x, 2.0 * x], y, 0.2)
    assert skipped == 0
    assert int(seed[y == 0].sum()) == 17  # a fifth of 85, rounded up
    assert int(seed[y == 1].sum()) == 8
    assert not bool(seed[group == 1].any())


def test_across_classes_a_row_among_strangers_is_no_seed():
    x, group = blobs([60, 60])
    y = group.clone()
    y[:15] = 1  # they lie with class 0 and call themselves 1
    seed, _ = seed_rows([x, x], y, 0.7, "cross-class")
    assert not bool(seed[:15].any())
    assert int(seed.sum()) > 80


def test_a_class_with_few_rows_is_not_judged():
    x, group = blobs([40, 11])
    seed, skipped = seed_rows([x], group, 0.2)
    assert skipped == 1
    assert not bool(seed[group == 1].any())
    assert seed_rows([x[:5]], group[:5], 0.2, "cross-class")[1] == 1


def test_rows_with_a_low_loss_and_the_right_answer_are_admitted():
    losses = torch.tensor([0.1, 0.2, 0.3, 0.4, 9.0, float("nan")])
    hits = torch.tensor([True, False, True, True, True, True])
    y = torch.tensor([0, 0, 0, 0, 1, 1])
    # Class 0: half of its losses are up to 0.25; of these the second is not predicted.
    assert admissible(losses, hits, y, 0.5).tolist() == [True, False, False, False, True, False]
    assert admissible(losses, hits, y, 1.0).tolist() == [True, False, True, True, True, False]


def local_of(module, x, y, memory, server_round=1):
    flat = FlatModel(module)
    return Local(
        module=flat.module,
        vector=flat.vector,
        gradient=flat.gradient,
        start=flat.vector.clone(),
        settings=TrainingSettings(0.1, 0.0, 0.0, 1, 8),
        client=0,
        server_round=server_round,
        rounds=9,
        seed=0,
        x=x,
        y=y,
        rows=torch.arange(len(y)),
        velocity=torch.zeros_like(flat.vector),
        memory=memory,
    )


def a_classifier(x, y):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(60):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model


def test_rounds_go_from_all_rows_to_the_seed_to_a_pool_that_closes():
    x, group = blobs([60, 25, 40])
    y = torch.tensor([0, 0, 1])[group]
    y[group == 1] = 1  # strangers in class 1, in which they are the minority
    model, memory, rule = a_classifier(x[group != 1], y[group != 1]), {}, TCore(warmup=1, share=0.2)
    sizes = []
    for server_round in range(1, 10):
        local = local_of(model, x, y, memory, server_round)
        rule.begin(local)
        kept = local.scratch["kept"]
        sizes.append(None if kept is None else len(kept))
    assert sizes[0] is None
    assert sizes[1] == 12 + 13
    assert sizes[2:] == sorted(sizes[2:])
    assert sizes[-1] > 50
    assert int(memory[SEEN][0]) == 9
    assert float(memory[GROWN][0]) == -1.0
    pool = memory[POOL].bool()
    assert int(pool[group == 1].sum()) <= 2


def test_what_was_admitted_stays_whatever_the_model_says_of_it_later():
    x, group = blobs([40, 40])
    model, memory, rule = a_classifier(x, group), {}, TCore(warmup=0)
    rule.begin(local_of(model, x, group, memory, 1))
    labels = group.clone()
    labels[:3] = 1  # three rows of the pool that the model does not take for their label
    memory[POOL][:3] = 1.0
    before = memory[POOL].bool()
    rule.begin(local_of(model, x, labels, memory, 2))
    assert bool(memory[POOL].bool()[before].all())


def test_rows_out_of_the_pool_carry_no_loss():
    x, y = blobs([20, 20])
    local, rule = local_of(nn.Linear(8, 2), x, y, {}), TCore()
    local.scratch["kept"] = torch.tensor([3, 5])
    local.rows = torch.tensor([3, 4, 5, 6])
    losses = torch.tensor([1.0, 10.0, 3.0, 10.0], requires_grad=True)
    assert float(rule.loss(local, losses).detach()) == 2.0
    local.rows = torch.tensor([7, 8, 9, 10])
    nothing = rule.loss(local, losses)
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    assert not bool(losses.grad.any())
    local.scratch["kept"] = None
    assert float(rule.loss(local, losses).detach()) == 6.0


def test_a_client_none_of_whose_classes_can_be_judged_trains_on_all():
    x, y = blobs([6, 6])
    local = local_of(nn.Linear(8, 2), x, y, {})
    TCore(warmup=0).begin(local)
    assert local.scratch["kept"] is None
    assert not bool(local.memory[POOL].any())


def a_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 2),
    ).eval()


def pictures():
    stream = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.rand(40, 1, 8, 8, generator=stream) * 0.2
    x[y == 1, :, :, 4:] += 0.8
    return x, y


@pytest.mark.parametrize(("mask", "drawn"), [(0.0, []), (0.3, [1])])
def test_channels_are_drawn_anew_once_where_a_mask_asks_for_it(monkeypatch, mask, drawn):
    gone = {"0": torch.tensor([False, True, False, False]), "3": torch.zeros(3, dtype=torch.bool)}
    monkeypatch.setattr("fedguard.training.t_core.lowest", lambda masks, below, most: gone)
    monkeypatch.setattr(
        "fedguard.training.t_core.channel_masks", lambda module, x, y, rng: {"0": torch.ones(4)}
    )
    model, (x, y), memory = a_network(), pictures(), {}
    rule = TCore(warmup=0, mask=mask)
    for server_round in (1, 2):
        before = model[0].weight.detach().clone()
        rule.begin(local_of(model, x, y, memory, server_round))
        changed = (model[0].weight != before).flatten(1).any(1).nonzero().flatten().tolist()
        assert changed == (drawn if server_round == 1 else [])


def test_masks_of_one_change_nothing_and_of_zero_shut_channels():
    model, (x, _) = a_network(), pictures()
    assert [name for name, _, _ in filters(model)] == ["0", "3"]
    assert [norm is None for _, _, norm in filters(model)] == [False, True]
    plain = model(x)
    with masked(model, {"0": torch.ones(4), "3": torch.ones(3)}):
        assert torch.equal(model(x), plain)
    with masked(model, {"3": torch.zeros(3)}):
        assert torch.equal(model(x), model[7].bias.expand(40, 2))
    assert torch.equal(model(x), plain)


def test_a_model_forgets_down_to_chance_and_stays_as_it_is():
    model, (x, y) = a_network(), pictures()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(60):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    before = [value.clone() for value in model.state_dict().values()]
    assert float((model(x).argmax(1) == y).double().mean()) > 0.9
    lost = forgotten(model, x, y, torch.Generator().manual_seed(0), 400)
    assert float((lost(x).argmax(1) == y).double().mean()) <= 0.6
    masks = channel_masks(model, x, y, torch.Generator().manual_seed(0), passes=5)
    assert {name: len(mask) for name, mask in masks.items()} == {"0": 4, "3": 3}
    assert all(0.0 <= float(m.min()) <= float(m.max()) <= 1.0 for m in masks.values())
    after = model.state_dict().values()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_lowest_masks_are_chosen_and_their_channels_alone_drawn_anew():
    masks = {"0": torch.tensor([0.9, 0.1, 0.2, 1.0]), "3": torch.tensor([0.25, 0.6, 0.0])}
    chosen = lowest(masks, 0.3, 0.5)
    assert chosen["0"].tolist() == [False, True, False, False] or chosen["0"].tolist() == [
        False,
        True,
        True,
        False,
    ]
    assert lowest(masks, 0.3, 1.0)["0"].tolist() == [False, True, True, False]
    assert lowest(masks, 0.3, 1.0)["3"].tolist() == [True, False, True]
    assert sum(int(rows.sum()) for rows in lowest(masks, 0.3, 0.3).values()) == 2
    model = a_network()
    with torch.no_grad():
        model[1].weight.fill_(2.0)
        model[1].running_var.fill_(3.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gone = {"0": torch.tensor([False, True, False, False]), "3": torch.tensor([True, False, False])}
    assert make_anew(model, gone, torch.Generator().manual_seed(1)) == 2
    after = model.state_dict()
    for name in ("0.weight", "1.weight", "1.running_var"):
        differs = (
            (after[name] != before[name]).flatten(1).any(1)
            if after[name].dim() > 1
            else (after[name] != before[name])
        )
        assert differs.tolist() == [False, True, False, False]
    assert float(model[3].bias[0]) == 0.0
    assert torch.equal(after["3.weight"][1:], before["3.weight"][1:])


@pytest.mark.parametrize(
    "wrong", [{"sift": "guess"}, {"share": 0.0}, {"warmup": -1}, {"mask": 1.1}, {"stages": 0}]
)
def test_arguments_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        TCore(**wrong)
