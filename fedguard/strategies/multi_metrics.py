"""Multi-Metrics: Manhattan, Euclidean and cosine distance, whitened together."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, equal_weights, lowest, rejections
from fedguard.updates import ClientUpdates, Verdict


def client_metrics(updates: ClientUpdates) -> Tensor:
    """Return (K, 3) float64: L1 and L2 norm of the update, cosine of old and new model.

    The cosine is 0 where one of the two models is the zero vector.
    """
    start = updates.global_vector[: updates.layout.num_trainable].to(torch.float64)
    norm = start.norm()
    rows = []
    wide, model = torch.empty_like(start), torch.empty_like(start)  # for one row after another
    for row in updates.trainable:
        wide.copy_(row)
        torch.add(start, wide, out=model)
        scale = norm * model.norm()
        cosine = start @ model / scale if float(scale) > 0.0 else torch.zeros_like(norm)
        length = wide.norm()
        rows.append(torch.stack([wide.abs_().sum(), length, cosine]))
    return torch.stack(rows)


def whitened_scores(metrics: Tensor) -> Tensor:
    """Return (K,) ``sqrt(x' Sigma^-1 x)`` of each client's summed gaps x to the others.

    Columns are divided by their largest entry first, which the whitening undoes but which keeps
    the covariance invertible; a column without spread drops out.
    """
    gaps = (metrics[:, None, :] - metrics[None, :, :]).abs().sum(dim=1)
    gaps = gaps / gaps.amax(dim=0).clamp(min=1e-300)
    if len(gaps) < 2:
        return torch.zeros(len(gaps), dtype=gaps.dtype)
    centred = gaps - gaps.mean(dim=0)
    covariance = centred.T @ centred / (len(gaps) - 1)
    inverse = torch.linalg.pinv(covariance, hermitian=True, rtol=1e-9)
    squares: Tensor = ((gaps @ inverse) * gaps).sum(dim=1)
    return squares.clamp(min=0.0).sqrt()


class MultiMetrics(RobustStrategy):
    r"""Keep the clients that agree best with the others in three distances at once.

    1. L1 and L2 norm of the update, cosine of old and new model;
    2. score: summed gaps to the others in the three, whitened by their covariance;
    3. mean of the share of clients with the lowest scores.

    Huang et al., "Multi-Metrics Adaptively Identifies Backdoors in Federated Learning", ICCV
    2023. Clients that tie with the last one are kept.

    A decoy can blind the paper's rule, so it declares ``"decoy-exempt"``: Sigma is the covariance
    of all clients, outliers included, and a spread that a few of them make counts as ordinary.
    One client at the right distance beside attackers makes both look closer than the honest. It
    keeps `kept_share` of the clients whether or not anybody attacks, also where honest clients are
    dissimilar (``"dissimilar-exempt"``).

    Parameters
    ----------
    kept_share : float
        Share of clients averaged, in (0, 1]; at least one client.

    Notes
    -----
    .. math::
       x_k = \left( \lVert \delta_k \rVert_1, \lVert \delta_k \rVert_2, \cos(w, w + \delta_k)
       \right), \qquad s_k = \sqrt{x_k'^\top \Sigma^{-1} x_k'}, \qquad x_k' = \sum_j |x_k - x_j|

    where :math:`\delta_k` is client k's update, w the global model, and :math:`\Sigma` the
    covariance of the x' over clients.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import MultiMetrics
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [9.0, 9.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = MultiMetrics(kept_share=0.5).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.0, 2.0]
    >>> sorted(verdict.reasons)
    [3]
    """

    properties: ClassVar[frozenset[str]] = frozenset(
        {"robust", "decoy-exempt", "dissimilar-exempt"}
    )
    traits = RobustStrategy.traits.but(blocks="rows")

    def __init__(self, *, kept_share: float = 0.3, **base: Any) -> None:
        super().__init__(**base)
        check_number("kept_share", kept_share, above=0.0, at_most=1.0)
        self.kept_share = kept_share

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean of the clients of lowest score; see `RobustStrategy.combine`."""
        metrics = client_metrics(updates)
        scores = whitened_scores(metrics)
        keep = lowest(scores, math.ceil(self.kept_share * len(updates) - 1e-9))
        weights = equal_weights(keep)
        limit = float(scores[keep].max())
        named = {
            "score": scores,
            "manhattan": metrics[:, 0],
            "euclidean": metrics[:, 1],
            "cosine": metrics[:, 2],
        }
        reasons = rejections(
            updates, weights, lambda row: f"score {scores[row]:.3g} above {limit:.3g}"
        )
        return Verdict(average(updates, weights), weights, named, reasons)
