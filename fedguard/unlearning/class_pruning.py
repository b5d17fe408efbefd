"""Class-discriminative pruning by TF-IDF of activations."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.unlearning.method import Activations, Erased, Situation, UnlearningMethod
from fedguard.unlearning.pruning import keep_mask


class ClassPruning(UnlearningMethod):
    """Silence the units that stand out for what is forgotten, found by TF-IDF; then fine-tune.

    ``TF_j = A_j^u / sum_j A_j^u``, ``IDF_j = log((1 + |U|) / (1 + #{v : A_j^v >= mean_j A^v}))``;
    the share beta with the largest ``TF IDF`` goes.

    Wang et al., "Federated Unlearning via Class-Discriminative Pruning", WWW 2022. The paper's
    documents are classes. Where a client or a share of its rows is forgotten the documents are
    clients, which is our extension.
    """

    asks: ClassVar[frozenset[str]] = frozenset({"activations"})

    def erase(self, situation: Situation) -> Erased:
        """Prune; see `UnlearningMethod.erase`."""
        widths = [layer.units for layer in situation.layers]
        keep: Tensor | None = None
        for request in situation.requests:
            if request.client is None or request.client not in situation.activations:
                continue
            target, documents = _documents(situation, request.client, request.label)
            scores = tf_idf(target, documents, widths)
            chosen = {
                layer: _top(score, self.options.beta)
                for layer, score in zip(situation.layers, scores, strict=True)
            }
            mask = keep_mask(situation.layout, chosen)
            keep = mask if keep is None else keep & mask
        return Erased(situation.vector, keep)


def tf_idf(target: Tensor, documents: Tensor, widths: list[int]) -> list[Tensor]:
    """Return each layer's (units,) scores of a document (all units,) among (U, all units)."""
    found = []
    columns = torch.split(documents, widths, dim=1)
    for own, every in zip(torch.split(target, widths), columns, strict=True):
        term = own / own.sum().clamp(min=1e-12)
        common = (every >= every.mean(dim=0)).sum(dim=0)
        found.append(term * torch.log((1.0 + len(every)) / (1.0 + common)))
    return found


def _top(score: Tensor, beta: float) -> Tensor:
    wanted = min(max(round(beta * len(score)), 1), len(score) - 1)
    return score.topk(wanted).indices


def _documents(situation: Situation, client: int, label: int | None) -> tuple[Tensor, Tensor]:
    """Return the target's mean activations and those of all documents, the target's included."""
    own = situation.activations[client]
    if label is None:
        others = [one for node, one in situation.activations.items() if node != client]
        target = _mean(own.forget_sums, own.forget_counts)
        rest = [_mean(one.retain_sums, one.retain_counts) for one in [own, *others]]
        filled = [row for row in rest if bool(row.any())]
        return target, torch.stack([target, *filled])
    sums, counts = _all_classes(list(situation.activations.values()))
    by_class = sums / counts.clamp(min=1.0).unsqueeze(1)
    return by_class[label], by_class


def _all_classes(found: list[Activations]) -> tuple[Tensor, Tensor]:
    sums = torch.stack([one.forget_sums + one.retain_sums for one in found]).sum(0)
    counts = torch.stack([one.forget_counts + one.retain_counts for one in found]).sum(0)
    return sums, counts


def _mean(sums: Tensor, counts: Tensor) -> Tensor:
    return sums.sum(0) / counts.sum().clamp(min=1.0)
