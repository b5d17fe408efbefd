from __future__ import annotations

import numpy as np
import pytest
import torch

from fedguard.strategies.flare import FLARE, neighbour_votes
from fedguard.testing import honest_updates, small_tools, with_deltas


@pytest.fixture
def rule():
    made = FLARE()
    made.tools = small_tools()
    return made


def test_votes_equal_counting_neighbours():
    points = np.random.default_rng(0).normal(size=9)
    distances = np.abs(points[:, None] - points[None, :])
    wanted = np.zeros(9)
    for row in range(9):
        others = [k for k in np.argsort(distances[row]) if k != row]
        for k in others[:4]:
            wanted[k] += 1
    found = neighbour_votes(torch.from_numpy(distances))
    np.testing.assert_allclose(found.numpy(), wanted)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_ties_share_votes_equally_and_few_clients_have_votes(count):
    votes = neighbour_votes(torch.zeros(count, count, dtype=torch.float64))
    assert torch.allclose(votes, votes[:1].expand(count))
    assert float(votes.min()) > 0


def test_weights_are_the_softmax_of_votes(rule):
    updates = honest_updates(8)
    verdict = rule.decide(updates)
    votes = verdict.scores["votes"].numpy()
    wanted = np.exp(votes / votes.mean())
    np.testing.assert_allclose(verdict.weights.numpy(), wanted / wanted.sum(), rtol=1e-9)


def test_outliers_in_latent_space_weigh_less(rule):
    updates = honest_updates(12, mean=0.0, std=0.02)
    deltas = updates.deltas.clone()
    deltas[:3] *= 40.0
    verdict = rule.decide(with_deltas(updates, deltas))
    assert float(verdict.weights[:3].max()) < float(verdict.weights[3:].median())


def test_models_without_finite_activations_are_rejected(rule):
    updates = honest_updates(6)
    deltas = updates.deltas.clone()
    deltas[2, updates.layout.num_trainable :] = -1e9  # a negative variance
    verdict = rule.decide(with_deltas(updates, deltas))
    assert verdict.reasons == {updates.node_ids[2]: "activations are not finite"}
