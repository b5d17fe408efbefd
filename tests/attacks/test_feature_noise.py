from __future__ import annotations

import torch

from fedguard.attacks.feature_noise import FeatureNoise
from fedguard.randomness import generator
from tests.attacks.worlds import images


def test_noise_on_images_stays_within_the_pixels_range():
    x, y = images(40)
    noisy, labels = FeatureNoise(std=2.0).poison(x, y, generator(0, 0, 1, "poison"))
    assert noisy.min() >= 0.0
    assert noisy.max() <= 1.0
    assert (noisy - x).abs().mean() > 0.2
    assert torch.equal(labels, y)


def test_noise_on_tables_is_relative_to_each_feature():
    x = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    x *= torch.tensor([1.0, 100.0, 0.0])
    noisy, _ = FeatureNoise(std=0.5).poison(
        x, torch.zeros(5000, dtype=torch.int64), generator(0, 0, 1, "poison")
    )
    assert torch.allclose((noisy - x).std(dim=0), 0.5 * x.std(dim=0), rtol=0.05)


def test_only_the_drawn_share_is_changed():
    x, y = images(40)
    before = x.clone()
    noisy, _ = FeatureNoise(poison_fraction=0.25).poison(x, y, generator(0, 0, 1, "poison"))
    assert int((noisy != x).flatten(1).any(dim=1).sum()) == 10
    assert torch.equal(x, before)
