from __future__ import annotations

import numpy as np
import torch
from references import random_rows, updates_of

from fedguard.strategies.crfl import CRFL, smoothed_vote
from fedguard.testing import honest_updates, small_tools


def test_clips_the_models_norm():
    start = torch.full((100,), 1.0)
    rows = random_rows(5, 100, seed=0)
    rule = CRFL(max_model_norm=2.0, noise_std=0.0)
    delta = rule.decide(updates_of(rows, global_vector=start)).delta
    assert abs(float((start + delta).norm()) - 2.0) < 1e-5
    loose = CRFL(max_model_norm=1e6, noise_std=0.0, clip=False)
    delta = loose.decide(updates_of(rows, global_vector=start)).delta
    np.testing.assert_allclose(delta.numpy(), rows.mean(axis=0), atol=1e-6)


def test_adds_noise_of_the_asked_size():
    rows = np.zeros((3, 20_000))
    noise = CRFL(noise_std=0.01).decide(updates_of(rows)).delta
    assert abs(float(noise.std()) / 0.01 - 1) < 0.05


def test_the_vote_of_many_models():
    tools, updates = small_tools(), honest_updates(1)
    args = (tools.model, updates.layout, updates.global_vector, tools.x)
    classes, shares = smoothed_vote(*args, noise_std=1e-9, votes=5)
    updates.layout.load(tools.model, updates.global_vector)
    with torch.no_grad():
        wanted = tools.model.eval()(tools.x).argmax(dim=1)
    assert torch.equal(classes, wanted)
    assert torch.equal(shares.max(dim=1).values, torch.ones(60))
    _, blurred = smoothed_vote(*args, noise_std=1.0, votes=50)
    assert torch.allclose(blurred.sum(dim=1), torch.ones(60))
    assert float(blurred.max(dim=1).values.mean()) < 0.99
