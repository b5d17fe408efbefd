"""BNGuard: clusters of the clients' first BatchNorm statistics."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from fedguard.errors import ConfigurationError
from fedguard.layout import ParameterLayout
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, equal_weights, rejections
from fedguard.updates import ClientUpdates, Verdict

_STATISTICS = ("running_mean", "running_var")


def first_batch_norm(layout: ParameterLayout) -> tuple[slice, slice] | None:
    """Return where the first BatchNorm's running mean and variance stand; None without one."""
    found = []
    for statistic in _STATISTICS:
        for at, name in enumerate(layout.names):
            if name.rpartition(".")[2] == statistic:
                found.append(slice(layout.offsets[at], layout.offsets[at] + layout.sizes[at]))
                break
    return (found[0], found[1]) if len(found) == len(_STATISTICS) else None


def batch_norm_features(updates: ClientUpdates) -> Tensor | None:
    """Return (K, 4) float64: mean and variance of each client's running means and variances.

    None where the model has no BatchNorm.
    """
    places = first_batch_norm(updates.layout)
    if places is None:
        return None
    columns = []
    for place in places:
        values = (updates.deltas[:, place] + updates.global_vector[place]).to(torch.float64)
        columns += [values.mean(dim=1), values.var(dim=1, unbiased=False)]
    return torch.stack(columns, dim=1)


def two_clusters(features: Tensor) -> Tensor:
    """Return (K,) labels 0 and 1 of 2-means on standardised (K, F) features.

    It starts from the two clients furthest apart, so that no draw decides. All 0 where the
    features hardly differ.
    """
    std = features.std(dim=0, unbiased=False)
    scale = features.abs().amax(dim=0)
    usable = std > 1e-9 * scale
    labels = torch.zeros(len(features), dtype=torch.int64)
    if len(features) < 3 or not bool(usable.any()):
        return labels
    points = ((features - features.mean(dim=0)) / std.clamp(min=1e-300))[:, usable].cpu().numpy()
    gaps = np.linalg.norm(points[:, None, :] - points[None, :, :], axis=2)
    first, second = np.unravel_index(int(gaps.argmax()), gaps.shape)
    start = points[[int(first), int(second)]]
    found = KMeans(n_clusters=2, init=start, n_init=1).fit_predict(points)
    return torch.from_numpy(found.astype(np.int64))


class BNGuard(RobustStrategy):
    r"""Keep the larger of two clusters by the statistics of the clients' first BatchNorm layer.

    1. mean and variance over channels of the running means, and of the running variances;
    2. 2-means on them, standardised; mean of the larger cluster's updates.

    A reading of the defence beside the attack SODA, in "SODA: Semantic-Oriented Distributional
    Alignment for Federated Backdoors", arXiv 2509.13219, 2025, from its description: a client that
    trains on data of another distribution shows it there. Two clusters of equal size are both
    kept. 2-means always finds two clusters, so that up to half of the clients are left out where
    nobody attacks; and a client may lie about its statistics, which nothing here would notice.
    Models without a BatchNorm layer are refused.

    Notes
    -----
    .. math::
       f_k = \left( \operatorname{mean} m_k, \operatorname{var} m_k,
       \operatorname{mean} v_k, \operatorname{var} v_k \right)

    .. math::
       (C_1, C_2) \approx \operatorname{argmin} \sum_{c=1}^{2} \sum_{k \in C_c}
       \lVert z_k - \bar{z}_c \rVert^2, \qquad
       \delta = \frac{1}{|C|} \sum_{k \in C} \delta_k

    where :math:`m_k` and :math:`v_k` are the running means and variances of client k's first
    BatchNorm layer, z is f standardised over clients, C the larger of the two clusters, and
    :math:`\delta_k` client k's update.

    Examples
    --------
    >>> import torch
    >>> from fedguard.layout import ParameterLayout
    >>> from fedguard.strategies import BNGuard
    >>> from fedguard.updates import ClientUpdates
    >>> layout = ParameterLayout.from_module(torch.nn.Sequential(torch.nn.BatchNorm1d(2)))
    >>> layout.names[2:4]
    ('0.running_mean', '0.running_var')
    >>> rows = torch.zeros(4, layout.size)
    >>> rows[:, 0] = torch.tensor([1.0, 2.0, 3.0, 90.0])
    >>> rows[:, 4] = torch.tensor([0.0, 0.1, 0.1, 5.0])
    >>> verdict = BNGuard().decide(ClientUpdates.from_matrix(rows, layout=layout))
    >>> sorted(verdict.reasons)
    [3]
    >>> round(float(verdict.delta[0]), 3)
    2.0
    """

    properties: ClassVar[frozenset[str]] = frozenset()

    def bind(self, layout: ParameterLayout) -> None:
        """Refuse a model without BatchNorm; see `RobustStrategy.bind`."""
        super().bind(layout)
        if first_batch_norm(layout) is None:
            allowed = "a model with a BatchNorm layer, such as --model torchvision.models:resnet18"
            raise ConfigurationError("strategy", type(self).__name__, allowed)

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean of the larger cluster; see `RobustStrategy.combine`."""
        features = batch_norm_features(updates)
        keep = torch.ones(len(updates), dtype=torch.bool)
        scores = {}
        if features is not None:
            labels = two_clusters(features)
            sizes = torch.bincount(labels, minlength=2)
            if int(sizes[0]) != int(sizes[1]):
                keep = labels == int(sizes.argmax())
            names = ("mean_of_means", "var_of_means", "mean_of_vars", "var_of_vars")
            scores = dict(zip(names, features.unbind(dim=1), strict=True))
        weights = equal_weights(keep)
        reasons = rejections(
            updates, weights, lambda row: "BatchNorm statistics in the smaller cluster"
        )
        return Verdict(average(updates, weights), weights, scores, reasons)
