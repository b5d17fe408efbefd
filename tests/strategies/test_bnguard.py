from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from fedguard.errors import ConfigurationError
from fedguard.layout import ParameterLayout
from fedguard.strategies.bnguard import (
    BNGuard,
    batch_norm_features,
    first_batch_norm,
    two_clusters,
)
from fedguard.testing import honest_updates, with_deltas
from fedguard.updates import ClientUpdates


def test_features_are_means_and_variances_of_the_client_models_statistics():
    updates = honest_updates(6, seed=0)
    names = updates.layout.names
    mean_at = updates.layout.offsets[names.index("1.running_mean")]
    var_at = updates.layout.offsets[names.index("1.running_var")]
    models = (updates.deltas.double() + updates.global_vector.double()).numpy()
    m, v = models[:, mean_at : mean_at + 24], models[:, var_at : var_at + 24]
    wanted = np.stack([m.mean(1), m.var(1), v.mean(1), v.var(1)], axis=1)
    np.testing.assert_allclose(batch_norm_features(updates).numpy(), wanted, rtol=1e-5, atol=1e-8)


def test_clients_of_another_distribution_are_left_out():
    updates = honest_updates(12, seed=1)
    deltas = updates.deltas.clone()
    at = updates.layout.offsets[updates.layout.names.index("1.running_mean")]
    deltas[:4, at : at + 48] += torch.linspace(0.0, 1.0, 48)  # running means, then variances
    verdict = BNGuard().decide(with_deltas(updates, deltas))
    assert set(verdict.reasons) == set(updates.node_ids[:4])
    wanted = updates.trainable[4:].mean(dim=0)
    size = updates.layout.num_trainable
    torch.testing.assert_close(verdict.delta[:size], wanted, rtol=1e-4, atol=1e-6)


def test_clusters_do_not_depend_on_units():
    points = torch.tensor([[0.0, 1e-6], [0.1, 2e-6], [5.0, 9e-6], [5.1, 9e-6], [5.2, 8e-6]])
    labels = two_clusters(points.double())
    assert labels.tolist() in ([0, 0, 1, 1, 1], [1, 1, 0, 0, 0])
    assert two_clusters(torch.ones(5, 4).double()).tolist() == [0] * 5


def test_equal_clusters_are_both_kept():
    updates = honest_updates(4, seed=2)
    deltas = updates.deltas.clone()
    at = updates.layout.offsets[updates.layout.names.index("1.running_mean")]
    deltas[:2, at : at + 24] += 5.0
    assert not BNGuard().decide(with_deltas(updates, deltas)).reasons


def test_a_model_without_batch_norm_is_refused():
    layout = ParameterLayout.from_module(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="BatchNorm"):
        BNGuard().bind(layout)


@pytest.mark.parametrize(("sizes", "seed"), [((3, 9), 0), ((7, 5), 1), ((1, 10), 2)])
def test_separated_clusters_are_those_of_many_random_starts(sizes, seed):
    rng = np.random.default_rng(seed)
    centres = np.repeat([[0.0, 0.0, 1.0, 3.0], [2.0, -2.0, 3.0, 1.0]], sizes, axis=0)
    features = centres + 0.2 * rng.normal(size=centres.shape)
    labels = two_clusters(torch.from_numpy(features)).numpy()
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    wanted = KMeans(n_clusters=2, n_init=20, random_state=seed).fit_predict(standard)
    np.testing.assert_array_equal(labels == labels[0], wanted == wanted[0])


def test_a_feature_that_differs_by_rounding_alone_has_no_say():
    rounding = 1.0 + 1e-14 * torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    telling = torch.tensor([0.0, 0.1, 0.2, 7.0, 7.1], dtype=torch.float64)
    labels = two_clusters(torch.stack([rounding, rounding, rounding, telling], dim=1))
    assert (labels == labels[0]).tolist() == [True, True, True, False, False]
    assert two_clusters(torch.tensor([[0.0], [9.0]]).double()).tolist() == [0, 0]


def hand_made(means, variances, weights=None) -> ClientUpdates:
    """Clients of a model of two BatchNorm layers, from a global model of zeros."""
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2))
    layout = ParameterLayout.from_module(model)
    rows = torch.zeros(len(means), layout.size)
    mean_at, var_at = first_batch_norm(layout)
    rows[:, mean_at], rows[:, var_at] = torch.tensor(means), torch.tensor(variances)
    if weights is not None:
        rows[:, 0] = torch.tensor(weights)
    return ClientUpdates.from_matrix(rows, layout=layout)


def test_features_of_the_first_of_two_layers_by_hand():
    updates = hand_made([[1.0, 3.0], [0.0, 0.0]], [[0.5, 0.5], [2.0, 6.0]])
    mean_at, _ = first_batch_norm(updates.layout)
    assert updates.layout.names[updates.layout.offsets.index(mean_at.start)] == "0.running_mean"
    assert batch_norm_features(updates).tolist() == [[2.0, 1.0, 0.5, 0.0], [0.0, 0.0, 4.0, 4.0]]


def test_a_client_that_is_not_a_number_is_set_aside_before_the_clusters():
    means = [[0.0, 0.1], [0.0, 0.2], [0.1, 0.1], [4.0, 9.0], [float("nan"), 0.0]]
    verdict = BNGuard().decide(hand_made(means, [[1.0, 1.0]] * 5, [1.0, 2.0, 6.0, 50.0, 50.0]))
    assert sorted(verdict.reasons) == [3]
    assert float(verdict.delta[0]) == pytest.approx(3.0)
    assert verdict.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])
