from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedguard import registry
from fedguard.data.edge_list import EdgeList
from fedguard.data.graph_sample import GraphSample
from fedguard.data.graphs import (
    absent_pairs,
    communities,
    each_once,
    shared_features,
    sparse_features,
)
from fedguard.data.planetoid import Cora
from fedguard.errors import ConfigurationError
from fedguard.models.vgae import _WIDEST, Vgae, low_rank, mixed, normalised
from fedguard.tasks.base import task_of
from fedguard.tasks.link_prediction import LinkPrediction, link_figures
from fedguard.testing import check_task


@pytest.fixture(scope="module")
def sample():
    return GraphSample(nodes=80, communities=2, absent=2).load(None)


def network(data, edges=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = Vgae((2,), 2, features=data.facts.width, **options)
    found.take_graph(data.facts.features, data.facts.edges if edges is None else edges)
    return found


# --- data ------------------------------------------------------------------------------------


def test_rows_are_links_within_clients_and_as_many_absent_pairs(sample):
    part = sample.groups["community"]
    whole = {tuple(pair) for pair in sample.facts.edges.tolist()}
    test = {tuple(pair) for pair in sample.x_test[sample.y_test > 0].tolist()}
    assert not whole & test
    for group in (0, 1):
        x, y = sample.x_train[part == group], sample.y_train[part == group]
        links = {tuple(pair) for pair in x[y > 0].tolist()}
        absent = {tuple(pair) for pair in x[y == 0].tolist()}
        assert links <= whole
        assert 2 * len(links) == len(absent) == int((y == 0).sum())
        assert not absent & (whole | test)
    nodes = [set(sample.x_train[part == group].flatten().tolist()) for group in (0, 1)]
    assert not nodes[0] & nodes[1]
    told = int(sample.notes[-1].split()[0])
    assert told == len(whole) - int((sample.y_train > 0).sum())
    assert int((sample.y_test > 0).sum()) == round(0.1 * (len(whole) + len(test)))
    assert int((sample.y_test == 0).sum()) == len(test)


def test_edges_are_kept_once_without_loops():
    edges = np.array([[2, 1], [1, 2], [3, 3], [0, 4]])
    assert each_once(edges).tolist() == [[0, 4], [1, 2]]


def test_communities_are_found_and_gathered_evenly():
    cliques = [[4 * c + i, 4 * c + j] for c in range(6) for i in range(4) for j in range(i)]
    found = communities(each_once(np.array(cliques)), 24, 3)
    assert sorted(np.unique(found, return_counts=True)[1].tolist()) == [8, 8, 8]
    for clique in range(6):
        assert len(set(found[4 * clique : 4 * clique + 4])) == 1
    with pytest.raises(ConfigurationError, match=r"communities: 9 .*1 to 6"):
        communities(each_once(np.array(cliques)), 24, 9)


def tables(folder, nodes, edges, heads=("node,club,a,b", "source,target")):
    (folder / "nodes.csv").write_text("\n".join([heads[0], *nodes]) + "\n")
    (folder / "edges.csv").write_text("\n".join([heads[1], *edges]) + "\n")
    return folder


NODES = [f"n{i},{'red' if i < 8 else 'blue'},{i % 2},{i / 2}" for i in range(16)]
EDGES = [f"n{8 * c + i},n{8 * c + j}" for c in range(2) for i in range(8) for j in range(i)]


def test_an_edge_list_of_ones_own_is_read(tmp_path):
    folder = tables(tmp_path, NODES, [*EDGES, "n0,n1", "n3,n3", "n0,n9"])
    data = EdgeList(group="club").load(folder)
    assert data.group_names["club"] == ("blue", "red")
    assert data.facts.features.to_dense()[5].tolist() == [1.0, 2.5]
    assert len(data.facts.edges) + int((data.y_test > 0).sum()) == 57
    assert data.facts.ids[9] == "n9"


@pytest.mark.parametrize(
    ("nodes", "edges", "options", "told"),
    [
        ([*NODES, "n3,red,0,0"], EDGES, {}, r"dataset.nodes.*row 17 has 'n3'"),
        ([*NODES, "n99,red,x,0"], EDGES, {}, r"dataset.nodes.*row 17 has 'a' 'x'"),
        (NODES, [*EDGES, "n0,n77"], {}, r"dataset.edges.*row 57 has 'n77'"),
        (NODES, EDGES[:3], {}, "at least 10 edges"),
        (NODES, EDGES, {"group": "klub"}, r"dataset.group: 'klub' .*did you mean 'club'"),
        (NODES, EDGES, {"edges": "links.csv"}, r"data_dir.*links.csv"),
    ],
)
def test_a_graph_that_cannot_be_meant_is_refused_in_one_line(tmp_path, nodes, edges, options, told):
    folder = tables(tmp_path, nodes, edges)
    with pytest.raises(ConfigurationError, match=told) as caught:
        EdgeList(**{"group": "club", **options}).load(folder)
    assert "\n" not in str(caught.value)


def test_cora_says_what_is_missing_and_reads_no_pickle(tmp_path):
    with pytest.raises(ConfigurationError, match=r"a folder that holds cora\.npz"):
        Cora().load(tmp_path)
    np.savez(tmp_path / "cora.npz", edges=np.array([{}], dtype=object))
    with pytest.raises(ConfigurationError, match=r"a folder that holds cora\.npz"):
        Cora().load(tmp_path)


# --- network and task --------------------------------------------------------------------------


def test_the_network_is_its_formula(sample):
    edges = torch.tensor([[0, 1], [1, 2], [2, 1], [3, 3]])
    adjacency = torch.eye(5)
    for i, j in ((0, 1), (1, 2)):
        adjacency[i, j] = adjacency[j, i] = 1.0
    root = adjacency.sum(dim=1).rsqrt()
    expected = root[:, None] * adjacency * root[None, :]
    assert torch.allclose(normalised(edges, 5).to_dense(), expected)
    features = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Vgae((2,), 2, features=3, hidden=4, latent=2).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(3.0)  # far from a standard normal, where the formula cancels
    model.take_graph(features.to_sparse(), edges)
    hidden = (expected @ features @ model.first.weight.T).relu()
    mean = expected @ hidden @ model.places.weight.T
    log = (expected @ hidden @ model.spread.weight.T).clamp(max=_WIDEST)
    output = model(torch.tensor([[0, 2]]))
    assert float(output[0, 0].detach()) == pytest.approx(float(mean[0] @ mean[2]), abs=1e-5)
    normal = torch.distributions.Normal(0.0, 1.0)
    own = torch.distributions.Normal(mean, log.exp())
    each = torch.distributions.kl_divergence(own, normal).sum(dim=1)
    told = float(output[0, 1].detach())
    assert told == pytest.approx(float(each[0] + each[2]) / 10, rel=1e-3)


def test_the_task_passes_its_suite(sample):
    x, y = sample.x_train, sample.y_train
    check_task(lambda: task_of(sample), network(sample), x, y)


def test_links_count_as_much_as_absent_pairs_together(sample):
    task, y = task_of(sample), torch.tensor([1, 0, 0])
    output = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.5]])
    found = task.losses(output, y)
    half = math.log(2.0)
    assert found.tolist() == pytest.approx([1.5 * half, 0.75 * half, 0.75 * half + 0.5], rel=1e-5)


def test_a_client_computes_with_its_own_links_and_the_server_with_all(sample):
    task, model = task_of(sample), network(sample)
    own = sample.groups["community"] == 0
    task.settle(model, sample.x_train[own], sample.y_train[own])
    seen = model.graph[1].indices()
    links = int((sample.y_train[own] > 0).sum())
    assert seen.shape[1] == sample.facts.nodes + 2 * links
    task.evaluate(model, sample.x_test, sample.y_test)
    assert model.graph[1].indices().shape[1] == sample.facts.nodes + 2 * len(sample.facts.edges)


def test_figures_equal_counts_of_pairs():
    logits, y = torch.tensor([0.9, 0.8, 0.3, 0.3]), torch.tensor([1, 0, 1, 0])
    # Links against absent pairs: .9 beats both, .3 loses to .8 and draws with .3.
    auc, ap = link_figures(logits, y)
    assert auc == pytest.approx(2.5 / 4)
    assert ap == pytest.approx((1.0 + 2 / 4) / 2)
    assert link_figures(torch.full((4,), math.nan), y)[0] == 0.5
    assert math.isnan(link_figures(logits, torch.ones(4))[0])


def test_edges_without_a_shared_feature_are_cleaned_away():
    features = sparse_features(np.array([[1, 0, 1], [1, 0, 0], [0, 1, 0]]))
    edges = torch.tensor([[0, 1], [1, 2], [0, 2]])
    assert shared_features(features, edges).tolist() == [1.0, 0.0, 0.0]
    data = GraphSample(nodes=80, communities=2, clean="jaccard").load(None)
    kept = data.facts.cleaned(data.facts.edges)
    assert 0 < len(kept) < len(data.facts.edges)
    assert bool((shared_features(data.facts.features, kept) > 0).all())


def test_networks_without_a_graph_are_tried_and_others_refused():
    model = Vgae((2,), 2)
    assert tuple(model(torch.zeros(2, 2, dtype=torch.int64)).shape) == (2, 2)
    assert model.graph is None
    with pytest.raises(ConfigurationError, match="a graph's data set"):
        registry.create("model", "vgae", input_shape=(3,), num_classes=2)
    assert LinkPrediction().output_fault(torch.zeros(2), 2, 2) is not None


def test_a_strangers_network_without_features_may_serve(sample):
    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Embedding(80, 4)

        def forward(self, x):
            found = self.places(x)
            logits = (found[:, 0] * found[:, 1]).sum(dim=1)
            return torch.stack([logits, torch.zeros_like(logits)], dim=1)

    found = task_of(sample).evaluate(Places(), sample.x_test, sample.y_test)
    assert 0.0 <= found["auc"] <= 1.0


# --- absent pairs ------------------------------------------------------------------------------


def test_absent_pairs_are_drawn_once_each_and_none_that_is_taken():
    taken = np.array([[i, j] for i in range(12) for j in range(i)])[:, ::-1] @ np.array([20, 1])
    found = absent_pairs(100, np.arange(16), taken, 20, np.random.default_rng(0))
    # 16 nodes have 120 pairs, of which the 66 among the first 12 are taken.
    assert len(found) == 54
    assert len(np.unique(found, axis=0)) == 54
    assert bool((found[:, 0] < found[:, 1]).all())
    assert bool((found[:, 1] >= 12).all())
    assert len(absent_pairs(7, np.arange(16), taken, 20, np.random.default_rng(0))) == 7


def test_absent_pairs_are_drawn_anew_in_training_alone(sample):
    task, model = task_of(sample), network(sample)
    own = sample.groups["community"] == 0
    x, y = sample.x_train[own], sample.y_train[own]
    task.settle(model, x, y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        once, again = model._drawn_anew(x), model._drawn_anew(x)
    links, nodes = y > 0, set(x.flatten().tolist())
    assert torch.equal(once[links], x[links])
    assert float((once[~links] != again[~links]).any(dim=1).double().mean()) > 0.9
    drawn = {tuple(sorted(pair)) for pair in once[~links].tolist()}
    assert not drawn & {tuple(sorted(pair)) for pair in x[links].tolist()}
    assert all(one != other and {one, other} <= nodes for one, other in drawn)
    model.eval()
    assert torch.equal(model(x), model(x))
    fixed = network(sample, fresh=False)
    task.settle(fixed, x, y)
    assert fixed._among is None


# --- low rank ----------------------------------------------------------------------------------


def test_a_low_rank_graph_is_the_nearest_of_its_rank(sample):
    edges, size = sample.facts.edges, sample.facts.nodes
    adjacency = torch.zeros(size, size)
    adjacency[edges[:, 0], edges[:, 1]] = adjacency[edges[:, 1], edges[:, 0]] = 1.0
    u, s, v = torch.linalg.svd(adjacency.double())
    near = ((u[:, :7] * s[:7]) @ v[:7]).float()
    found = low_rank(edges, size, 7)
    assert torch.allclose((found.vectors * found.values) @ found.vectors.T, near, atol=1e-4)
    degree = near.sum(dim=1) + 1.0
    root = degree.clamp(min=1.0).rsqrt()
    expected = root[:, None] * (near + torch.eye(size)) * root[None, :]
    x = torch.rand(size, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mixed(found, x), expected @ x, atol=1e-4)
    # With all of its rank it is the graph itself.
    whole = mixed(low_rank(edges, size, size), x)
    assert torch.allclose(whole, normalised(edges, size).to_dense() @ x, atol=0.1)


def test_clients_compute_with_the_low_rank_graph_and_the_server_with_the_whole():
    data = GraphSample(nodes=80, communities=2, absent=2, clean="svd", rank=4).load(None)
    task, model = task_of(data), network(data)
    task.settle(model, data.x_train, data.y_train)
    assert model.graph[1].vectors.shape == (80, 4)
    loss = task.losses(model.train()(data.x_train), data.y_train).mean()
    torch.autograd.backward(loss)
    assert bool(torch.isfinite(model.first.weight.grad).all())
    task.evaluate(model, data.x_test, data.y_test)
    assert model.graph[1].indices().shape[1] == 80 + 2 * len(data.facts.edges)

    class Takes(nn.Module):
        def take_graph(self, features, edges):
            raise AssertionError

    with pytest.raises(ConfigurationError, match=r"dataset\.clean: 'svd'.*none or jaccard"):
        task.settle(Takes(), data.x_train, data.y_train)


def test_an_empty_graph_has_no_rank():
    found = low_rank(torch.empty(0, 2, dtype=torch.int64), 5, 3)
    x = torch.rand(5, 2)
    assert torch.equal(mixed(found, x), x)


# --- size --------------------------------------------------------------------------------------


def test_a_large_graph_has_the_degrees_of_the_small_one():
    large, small = (GraphSample(nodes=n, communities=1).load(None) for n in (2400, 240))

    def degrees(data):
        edges = torch.cat([data.facts.edges, data.x_test[data.y_test > 0]])
        inner = float((edges[:, 0] % 8 == edges[:, 1] % 8).double().mean())
        return 2 * len(edges) / data.facts.nodes, inner

    (many, inside), (few, within) = degrees(large), degrees(small)
    assert many == pytest.approx(few, rel=0.2)
    assert inside == pytest.approx(within, abs=0.06)
    assert len(large.y_train) == 6 * len(large.facts.edges)


@pytest.mark.parametrize("clean", ["none", "svd"])
def test_no_tensor_of_all_pairs_is_made(clean):
    """A step on 3,000 nodes makes nothing near 3,000 x 3,000."""
    data = GraphSample(nodes=3000, communities=1, absent=1, clean=clean, rank=5).load(None)
    task, model = task_of(data), network(data)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor) and found.layout == torch.strided:
                largest = max(largest, found.numel())
            return found

    task.settle(model, data.x_train, data.y_train)
    with Watch():
        loss = task.losses(model.train()(data.x_train), data.y_train).mean()
        torch.autograd.backward(loss)
        task.evaluate(model, data.x_test, data.y_test)
    assert 3000 <= largest < 3000 * 3000 / 4
