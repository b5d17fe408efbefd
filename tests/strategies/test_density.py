from __future__ import annotations

import numpy as np
import pytest
import torch

from fedguard.strategies.toolkit.density import density_clusters, largest_cluster


def two_groups(sizes: tuple[int, int], inside: float = 0.1, apart: float = 1.0) -> torch.Tensor:
    """Return distances of two groups on a line, members `inside` apart at most."""
    points = np.concatenate(
        [np.linspace(0, inside, sizes[0]), np.linspace(apart, apart + inside, sizes[1])]
    )
    return torch.from_numpy(np.abs(points[:, None] - points[None, :]))


def with_decoy(distances: torch.Tensor, away: float) -> torch.Tensor:
    count = len(distances)
    wide = torch.full((count + 1, count + 1), away, dtype=torch.float64)
    wide[:count, :count] = distances
    return wide.fill_diagonal_(0.0)


def test_finds_two_groups():
    labels = density_clusters(two_groups((5, 4)), 3)
    assert len(set(labels[:5].tolist())) == 1
    assert len(set(labels[5:].tolist())) == 1
    assert labels[0] != labels[5]


@pytest.mark.parametrize("away", [1e2, 1e6, 1e12])
def test_one_client_far_out_does_not_melt_the_others_into_one(away):
    labels = density_clusters(with_decoy(two_groups((5, 4)), away), 3)
    assert labels[0] != labels[5]
    assert len(set(labels[:5].tolist())) == len(set(labels[5:9].tolist())) == 1


def test_copies_share_a_label_whatever_rounding_says():
    distances = two_groups((4, 4), inside=0.0)
    noise = np.random.default_rng(0).uniform(0, 1e-15, distances.shape)
    labels = density_clusters(distances + torch.from_numpy(noise + noise.T).fill_diagonal_(0), 2)
    assert len(set(labels[:4].tolist())) == len(set(labels[4:].tolist())) == 1


def test_the_largest_cluster_and_all_that_tie_with_it():
    assert largest_cluster(torch.tensor([0, 0, 0, 1, 1, -1])).tolist() == [True] * 3 + [False] * 3
    assert largest_cluster(torch.tensor([0, 0, 1, 1, -1])).tolist() == [True] * 4 + [False]
    assert largest_cluster(torch.tensor([-1, -1])).tolist() == [True, True]
