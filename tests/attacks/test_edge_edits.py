from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fedguard import registry
from fedguard.attacks.base import Scene
from fedguard.attacks.toolkit.edge_gradients import Surrogate
from fedguard.data.graph_sample import GraphSample
from fedguard.data.graphs import shared_features
from fedguard.models.vgae import Vgae
from fedguard.testing import check_attack

NAMES = ("meta-edges", "random-edges", "dice-edges")


@pytest.fixture(scope="module")
def data():
    return GraphSample(nodes=80, communities=2, test_share=0.2, absent=1).load(None)


def attack(data, name, **arguments):
    given = {"epochs": 8, **arguments} if name == "meta-edges" else arguments
    found = registry.create("attack", name, **given)
    found.bind(data.num_classes, data.input_shape)
    found.meet(data)
    return found


def rows(data, group=0):
    own = data.groups["community"] == group
    return data.x_train[own], data.y_train[own]


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def pairs(x, y):
    return {tuple(sorted(pair)) for pair in x[y > 0].tolist()}


@pytest.mark.parametrize("name", NAMES)
def test_edits_pass_the_conformance_suite(name):
    check_attack(lambda: registry.create("attack", name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("edits", ["both", "add"])
@pytest.mark.parametrize("budget", [0.05, 0.3])
def test_edits_meet_the_budget_and_leave_attacked_pairs_alone(data, name, edits, budget):
    part, (x, y) = attack(data, name, edits=edits, budget=budget), rows(data)
    new_x, new_y = part.poison(x, y, stream())
    before, after = pairs(x, y), pairs(new_x, new_y)
    total = round(budget * len(before))
    added, removed = after - before, before - after
    assert len(added) == (total if edits == "add" else total // 2 + total % 2)
    assert len(removed) == total - len(added)
    assert len(after) == int((new_y > 0).sum())
    assert all(one != other for one, other in after)
    assert {node for pair in after for node in pair} <= set(x.flatten().tolist())
    attacked = {tuple(sorted(pair)) for pair in data.x_test.tolist()}
    assert not (added | removed) & attacked
    absent = {tuple(sorted(pair)) for pair in new_x[new_y == 0].tolist()}
    assert not absent & after
    again = part.poison(x, y, stream())
    assert torch.equal(again[0], new_x)
    measured = part.measure(Scene(torch.nn.Identity(), {}, None))
    assert (measured["edges_added"], measured["edges_removed"]) == (len(added), len(removed))


def dense_loss(model, adjacency, features, attacked, wanted):
    """The attacker's loss as a function of a dense adjacency without loops."""
    whole = adjacency + torch.eye(len(adjacency))
    root = whole.sum(dim=1).rsqrt()
    mixing = root[:, None] * whole * root[None, :]
    hidden = (mixing @ features @ model.first.weight.T).relu()
    mean = mixing @ hidden @ model.places.weight.T
    logits = (mean[attacked[:, 0]] * mean[attacked[:, 1]]).sum(dim=1)
    return functional.binary_cross_entropy_with_logits(logits, wanted.float())


def surrogate(data, epochs):
    own = attack(data, "meta-edges").own_graph(*rows(data))
    return Surrogate(own, own.edges, own.known, own.labels, epochs, 0.01)


def test_slopes_are_those_of_the_loss_by_every_edge(data):
    """One epoch, against PyTorch's gradient through a dense adjacency and its degrees."""
    part = surrogate(data, 1)
    own = part.own
    found = part.slopes(torch.ones(1), stream(), None)
    model: Vgae = part._model(stream())
    adjacency = torch.zeros(own.size, own.size)
    i, j = own.edges.T
    adjacency[i, j] = adjacency[j, i] = 1.0
    adjacency.requires_grad_()
    features = own.features.to_dense()
    loss = dense_loss(model, adjacency, features, own.known, own.labels)
    slope = torch.autograd.grad(loss, adjacency)[0]
    slope = slope + slope.T
    expected = slope[found.pairs[:, 0], found.pairs[:, 1]]
    assert torch.allclose(found.slopes, expected, atol=1e-6, rtol=1e-3)
    assert torch.allclose(found.links, slope[i, j], atol=1e-6, rtol=1e-3)
    assert float(expected.abs().max()) > 1e-4


def test_drawn_candidates_have_the_slopes_that_all_pairs_have(data):
    part = surrogate(data, 4)
    every = part.slopes(torch.arange(4.0), stream(), None)
    some = part.slopes(torch.arange(4.0), stream(), every.pairs[::7])
    assert torch.allclose(some.slopes, every.slopes[::7], atol=1e-6, rtol=1e-3)
    assert torch.allclose(some.links, every.links, atol=1e-6, rtol=1e-3)


def test_the_steepest_edits_are_chosen(data):
    part = attack(data, "meta-edges", epochs=3, budget=0.1)
    own = part.own_graph(*rows(data))
    chosen = part.ranked(own, 3, 3, stream())
    found = surrogate(data, 3).slopes(torch.arange(1, 4) / 3, stream(), None)
    removable = found.links.topk(3, largest=False).indices
    assert sorted(chosen.remove.tolist()) == sorted(own.edges[removable].tolist())
    known = {tuple(pair) for pair in [*own.edges.tolist(), *own.known.tolist()]}
    free = [
        (float(slope), tuple(pair))
        for slope, pair in zip(found.slopes, found.pairs.tolist(), strict=True)
        if tuple(pair) not in known
    ]
    assert {tuple(pair) for pair in chosen.add.tolist()} == {
        pair for _, pair in sorted(free, reverse=True)[:3]
    }


def test_proxy_pairs_are_its_own_links_held_back(data):
    part = attack(data, "meta-edges", objective="proxy-pairs")
    own = part.own_graph(*rows(data))
    edges, attacked, wanted = part._attacked(own, stream())
    held = {tuple(pair) for pair in attacked[wanted > 0].tolist()}
    assert len(held) == round(0.2 * len(own.edges))
    assert held | {tuple(pair) for pair in edges.tolist()} == {
        tuple(pair) for pair in own.edges.tolist()
    }
    assert not held & {tuple(pair) for pair in edges.tolist()}


def test_unlike_nodes_are_linked_and_like_ones_parted(data):
    part = attack(data, "dice-edges")
    own = part.own_graph(*rows(data))
    chosen = part.ranked(own, 5, 5, stream())
    shared = shared_features(own.features, own.edges)
    assert float(shared_features(own.features, chosen.remove).min()) >= float(shared.median())
    assert float(shared_features(own.features, chosen.add).max()) == 0.0


def test_a_large_graph_is_searched_without_a_matrix_of_all_pairs(data):
    part = attack(data, "meta-edges", dense=10, candidates=300)
    x, y = rows(data)
    new_x, new_y = part.poison(x, y, stream())
    assert pairs(new_x, new_y) != pairs(x, y)
