"""FoolsGold."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, rejections
from fedguard.strategies.toolkit.distances import cosine_distances, gram_matrix
from fedguard.strategies.toolkit.sketch import sketch
from fedguard.updates import ClientUpdates, Verdict


def foolsgold_weights(cosine: Tensor) -> Tensor:
    """Return each client's learning rate in [0, 1] from the cosines of the clients' histories.

    Parameters
    ----------
    cosine : Tensor
        (K, K) cosine similarities; the diagonal is not read, and those below 0 count as 0.
    """
    count = len(cosine)
    if count == 1:
        return torch.ones(1, dtype=cosine.dtype)
    # Without the clamp a client unlike all others would be divided by a peak below 0.
    others = cosine.clamp(min=0.0).fill_diagonal_(0.0)
    peak = others.max(dim=1).values
    ratio = peak[:, None] / peak[None, :].clamp(min=1e-300)
    pardon = torch.where(peak[None, :] > peak[:, None], ratio, 1.0)
    rate = (1.0 - (others * pardon).max(dim=1).values).clamp(0.0, 1.0)
    if float(rate.max()) <= 1e-6:
        return torch.zeros_like(rate)
    rate = (rate / rate.max()).clamp(1e-6, 1.0 - 1e-6)
    return (torch.log(rate / (1.0 - rate)) + 0.5).clamp(0.0, 1.0)


class FoolsGold(RobustStrategy):
    r"""Weigh down clients whose histories resemble each other: sybils share an aim.

    Fung, Yoon and Beschastnikh, "The Limitations of Federated Learning in Sybil Settings", RAID
    2020. It assumes that honest clients differ: identical honest updates count as sybils, and
    where all look like sybils the model stays. It looks at directions only, so a single client
    can move the model anywhere; combine it with clipping. Cosines below 0 count as 0, which the
    paper leaves open: clients of one class each point away from each other, and are no sybils. The
    paper may restrict the cosine to the output layer; here it is taken over all trainable
    parameters. Histories are kept per
    client; those of more than 65,536 parameters as a `sketch` of an eighth of their length, which
    knows their cosines to about 0.4 % or better.

    Notes
    -----
    .. math::
       c_{ij} = \max(\cos(H_i, H_j), 0) \cdot \min\left( 1, \frac{v_i}{v_j} \right), \qquad
       v_i = \max_{j \ne i} \max(\cos(H_i, H_j), 0)

    .. math::
       a_i = \frac{1 - \max_{j \ne i} c_{ij}}{\max_l (1 - \max_{j \ne l} c_{lj})}, \qquad
       \alpha_i = \min\left( 1, \max\left( 0, \ln \frac{a_i}{1 - a_i} + \frac{1}{2} \right) \right),
       \qquad \delta = \frac{\sum_i \alpha_i \delta_i}{\sum_i \alpha_i}

    where :math:`\delta_i` is client i's update, :math:`H_i` the sum of its updates so far, and
    :math:`a_i` is held between :math:`10^{-6}` and :math:`1 - 10^{-6}`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import FoolsGold
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 0.0], [0.0, 1.0], [-2.0, -2.0], [-2.0, -2.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = FoolsGold().decide(updates)
    >>> [round(value, 3) for value in verdict.weights.tolist()]
    [0.5, 0.5, 0.0, 0.0]
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [0.5, 0.5]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"scale"})
    traits = RobustStrategy.traits.but(history=True)

    def __init__(self, **base: Any) -> None:
        super().__init__(**base)
        self._history: dict[int, Tensor] = {}

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean under FoolsGold's learning rates; see `RobustStrategy.combine`."""
        histories = sketch(updates.trainable, self.seed)
        for node, row in zip(updates.node_ids, histories, strict=True):
            if node in self._history:
                row += self._history[node]
            self._history[node] = row.clone()  # a view would keep the whole round's sketches
        cosine = 1.0 - cosine_distances(gram_matrix(histories))
        rate = foolsgold_weights(cosine)
        total = float(rate.sum())
        weights = rate / total if total > 0.0 else torch.zeros_like(rate)
        similarity = cosine.fill_diagonal_(-1.0).max(dim=1).values
        reasons = rejections(
            updates,
            weights,
            lambda row: f"history resembles another's, cosine {similarity[row]:.3f}",
        )
        scores = {"learning_rate": rate, "max_cosine": similarity}
        return Verdict(average(updates, weights), weights, scores, reasons)

    def reset(self) -> None:
        """Forget all histories."""
        self._history = {}

    def state(self) -> dict[str, Tensor]:
        """Return the node ids (N,) and their histories or sketches of them (N, m)."""
        if not self._history:
            return {}
        return {
            "nodes": torch.tensor(list(self._history), dtype=torch.int64),
            "history": torch.stack(list(self._history.values())),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take histories back."""
        nodes = state["nodes"].tolist() if "nodes" in state else []
        self._history = {node: state["history"][at] for at, node in enumerate(nodes)}
