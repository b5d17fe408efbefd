from __future__ import annotations

import numpy as np
import pytest
import torch
from references import relative_error
from torch.nn.functional import cross_entropy

from fedguard.strategies.fltrust import FLTrust
from fedguard.strategies.toolkit.server_training import server_update
from fedguard.testing import honest_updates, small_tools, with_deltas


@pytest.fixture
def rule():
    made = FLTrust(server_epochs=5)
    made.tools = small_tools()
    return made


def test_equals_the_formula(rule):
    updates = honest_updates(9, mean=0.0)
    size = updates.layout.num_trainable
    own = server_update(rule, updates, epochs=5, batch_size=32, lr=0.05)[:size].double().numpy()
    rows = updates.trainable.double().numpy()
    norms = np.linalg.norm(rows, axis=1)
    trust = np.maximum(rows @ own / norms / np.linalg.norm(own), 0.0)
    scaled = rows * (np.linalg.norm(own) / norms)[:, None]
    verdict = rule.decide(updates)
    assert relative_error(verdict.delta[:size], trust @ scaled / trust.sum()) < 1e-5
    np.testing.assert_allclose(verdict.scores["trust_score"], trust, atol=1e-9)
    assert {updates.node_ids[k] for k in np.flatnonzero(trust == 0)} == set(verdict.reasons)


def test_the_model_stays_where_everybody_points_away(rule):
    updates = honest_updates(4)
    own = server_update(rule, updates, epochs=5, batch_size=32, lr=0.05)
    against = with_deltas(updates, -own.expand(4, -1).clone())
    verdict = rule.decide(against)
    assert not verdict.delta.any()
    assert len(verdict.reasons) == 4


def test_the_servers_training_learns_its_examples(rule):
    updates = honest_updates(3)
    tools = rule.tools

    def loss(vector):
        updates.layout.load(tools.model, vector)
        tools.model.eval()
        with torch.no_grad():
            return float(cross_entropy(tools.model(tools.x), tools.y))

    before = loss(updates.global_vector)
    own = server_update(rule, updates, epochs=20, batch_size=16, lr=0.1)
    assert loss(updates.global_vector + own) < 0.5 * before


def test_without_tools_it_says_so():
    with pytest.raises(RuntimeError, match="FLTrust needs the server's model"):
        FLTrust().decide(honest_updates(3))
