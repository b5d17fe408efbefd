"""A detector of fake user profiles, which knows neither who is fake nor what is promoted."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def profile_features(histories: Tensor, popularity: Tensor) -> NDArray[np.float64]:
    """Return the (N, 4) features of users' histories that a shop can look at.

    Length, mean log popularity of the items, share of the item that occurs most, and the largest
    Jaccard overlap with another user's items.

    Parameters
    ----------
    histories : Tensor
        (N, L) items, 0 for none.
    popularity : Tensor
        (V + 1,) how often each item occurs among honest and fake users.
    """
    known = histories > 0
    length = known.sum(dim=1).double()
    log = popularity.double().clamp(min=1.0).log()[histories] * known
    counts = torch.zeros(len(histories), len(popularity))
    counts.scatter_add_(1, histories, known.float())
    most = counts.max(dim=1).values.double() / length.clamp(min=1.0)
    sets = (counts > 0).float()
    shared = sets @ sets.T
    sizes = sets.sum(dim=1)
    overlap = shared / (sizes[:, None] + sizes[None, :] - shared).clamp(min=1.0)
    overlap.fill_diagonal_(0.0)
    found = (
        length,
        log.sum(dim=1) / length.clamp(min=1.0),
        most,
        overlap.max(dim=1).values.double(),
    )
    return torch.stack(found, dim=1).numpy()


def detection_auc(histories: Tensor, fake: Tensor, popularity: Tensor) -> float:
    """Return how often an isolation forest finds a fake profile odder than a real one.

    Liu, Ting and Zhou, "Isolation Forest", ICDM 2008, by scikit-learn, on `profile_features`; 0.5
    is guessing, and below it fakes look more ordinary than people.

    Parameters
    ----------
    histories : Tensor
        (N, L) items of all users.
    fake : Tensor
        (N,) bool, which are fake; for the measure alone.
    popularity : Tensor
        (V + 1,) how often each item occurs.
    """
    from sklearn.ensemble import IsolationForest
    from sklearn.metrics import roc_auc_score

    features = profile_features(histories, popularity)
    forest = IsolationForest(random_state=0).fit(features)
    return float(roc_auc_score(fake.numpy(), -forest.score_samples(features)))
