"""FedIT and FLoRA: aggregation of low-rank adapters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedguard.errors import check_assumed_malicious
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.krum import krum_scores
from fedguard.strategies.toolkit.averaging import lowest, rejections
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.products import (
    adapter_distances,
    best_factors,
    factor,
    pairs_of,
)
from fedguard.updates import ClientUpdates, Verdict

_COLUMNS_PER_BLOCK = 1 << 14
"""Columns that are widened to float64 at a time."""


class FedIT(RobustStrategy):
    r"""Average A and B separately, over the clients whose products B A lie close together.

    Weighted by the claimed examples. With `robust` only the n - f clients with the lowest Krum
    scores count, by the distances of their products, which are found from r x r matrices without
    forming a product.

    Zhang et al., "Towards Building the FederatedGPT: Federated Instruction Tuning", ICASSP 2024,
    for the average; ours: the choice by products. The mean of A times the mean of B is not the
    mean of the products; see `FLoRA`. Tensors that belong to no adapter count as they are.

    Parameters
    ----------
    robust : bool
        Whether clients are left out by the distances of their products.
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5, where `robust`; f is its share of n,
        rounded up.

    Notes
    -----
    .. math::
       A \leftarrow \sum_{i \in S} p_i A_i, \qquad B \leftarrow \sum_{i \in S} p_i B_i, \qquad
       p_i = \frac{n_i}{\sum_{j \in S} n_j}

    where :math:`A_i`, :math:`B_i` are client i's adapter factors, :math:`n_i` the examples that it
    claims, and S all clients, or with `robust` the n - f of n with the lowest Krum scores under
    :math:`\lVert B_i A_i - B_j A_j \rVert^2`, f the assumed bound.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies.lora import FedIT
    >>> from fedguard.updates import ClientUpdates
    >>> rows = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> verdict = FedIT().decide(ClientUpdates.from_matrix(rows, num_examples=[1, 3]))
    >>> verdict.delta.tolist(), verdict.weights.tolist()
    ([2.5, 5.0], [0.25, 0.75])
    """

    def __init__(
        self, *, robust: bool = False, assumed_malicious: float = 0.25, **base: Any
    ) -> None:
        super().__init__(**base)
        check_assumed_malicious(assumed_malicious)
        self.robust, self.assumed_malicious = robust, assumed_malicious

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the weighted mean of the clients that count; see `RobustStrategy.combine`."""
        weights, scores = updates.num_examples / updates.num_examples.sum(), None
        if self.robust:
            bound = assumed_count(self.assumed_malicious, len(updates))
            scores = krum_scores(adapter_distances(updates), bound)
            kept = torch.zeros(len(updates), dtype=torch.bool)
            kept[lowest(scores, len(updates) - bound)] = True
            weights = torch.where(kept, updates.num_examples, 0.0)
            weights = weights / weights.sum()
        reasons = rejections(updates, weights, lambda row: "product far from the others'")
        told = {} if scores is None else {"product_score": scores}
        return Verdict(self.merged(updates, weights), weights, told, reasons)

    def merged(self, updates: ClientUpdates, weights: Tensor) -> Tensor:
        """Return the (D,) change of the global model under the clients' (K,) weights."""
        found = torch.empty(updates.layout.size, device=updates.deltas.device)
        for start in range(0, len(found), _COLUMNS_PER_BLOCK):
            columns = slice(start, start + _COLUMNS_PER_BLOCK)
            found[columns] = weights @ updates.deltas[:, columns].double()
        return found


class FLoRA(FedIT):
    r"""Average the products B A themselves, and cut their stack back to the adapters' rank.

    Tensors that belong to no adapter are averaged.

    Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
    Adaptations", NeurIPS 2024, stacks the factors, so that the mean of the products is exact; its
    stack grows by n r a round and is added to the frozen model. Here the model that travels keeps
    its rank: the stack is cut by its singular values, the least that must be lost.

    Parameters
    ----------
    robust : bool
        As in `FedIT`.
    assumed_malicious : float
        As in `FedIT`.

    Notes
    -----
    .. math::
       B A \leftarrow \operatorname{argmin}_{\operatorname{rank} M \le r}
       \left\lVert M - \sum_{i \in S} p_i B_i A_i \right\rVert_F

    where :math:`A_i`, :math:`B_i` are client i's adapter factors of rank r, and S and :math:`p_i`
    those of `FedIT`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies.lora import FLoRA
    >>> from fedguard.updates import ClientUpdates
    >>> rows = torch.tensor([[1.0, 2.0], [3.0, 6.0]])  # no adapter among them: plain averaging
    >>> FLoRA().decide(ClientUpdates.from_matrix(rows)).delta.tolist()
    [2.0, 4.0]
    """

    def merged(self, updates: ClientUpdates, weights: Tensor) -> Tensor:
        """Return the (D,) change of the global model; see `FedIT.merged`."""
        found = super().merged(updates, weights)
        offsets = updates.layout.offsets
        for pair in pairs_of(updates.layout):
            made = best_factors(factor(updates, pair.a), factor(updates, pair.b), weights)
            for place, value in zip((pair.a, pair.b), made, strict=True):
                start, end = offsets[place : place + 2]
                change = value.flatten() - updates.global_vector[start:end].double()
                found[start:end] = change.to(torch.float32)
        return found
