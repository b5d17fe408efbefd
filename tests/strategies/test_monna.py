from __future__ import annotations

import byzfl
import numpy as np
import torch
from references import relative_error

from fedguard.strategies.monna import MoNNA
from fedguard.strategies.toolkit.server_training import server_update
from fedguard.testing import honest_updates, small_tools, with_deltas


def test_equals_byzfl_with_the_servers_update_as_the_trusted_one():
    rule = MoNNA(assumed_malicious=0.25)
    rule.tools = small_tools()
    updates = honest_updates(12)
    pivot = server_update(rule, updates, epochs=1, batch_size=32, lr=0.05)
    size = updates.layout.num_trainable
    stacked = torch.cat([pivot[None, :size], updates.trainable]).double().numpy()
    theirs = byzfl.MoNNA(f=3, idx=0)(stacked)  # mean of the pivot and its 9 nearest
    wanted = (theirs * 10 - stacked[0]) / 9
    assert relative_error(rule.decide(updates).delta[:size], wanted) < 1e-5


def test_trusts_nobody_at_a_fixed_place():
    rule = MoNNA(assumed_malicious=0.25)
    rule.tools = small_tools()
    updates = honest_updates(12)
    for place in range(0, 12, 3):
        deltas = updates.deltas.clone()
        deltas[place, : updates.layout.num_trainable] = 50.0
        verdict = rule.decide(with_deltas(updates, deltas))
        assert verdict.weights[place] == 0
        assert "server" in verdict.reasons[updates.node_ids[place]]
        assert np.abs(verdict.delta.numpy()).max() < 1.0
