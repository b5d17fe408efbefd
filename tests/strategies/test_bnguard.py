from __future__ import annotations

import numpy as np
import pytest
import torch

from fedguard.errors import ConfigurationError
from fedguard.layout import ParameterLayout
from fedguard.strategies.bnguard import BNGuard, batch_norm_features, two_clusters
from fedguard.testing import honest_updates, with_deltas


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
