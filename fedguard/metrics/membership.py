"""Membership inference: what a model's losses tell of what it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.metrics.classification import predictions

LOW_RATE = 0.01
"""False positive rate at which the true positive rate is reported."""


@dataclass(frozen=True)
class Membership:
    """How well an attacker tells members from others.

    Attributes
    ----------
    auc : float
        Area under the curve, 0.5 for guessing.
    tpr_at_low_fpr : float
        True positive rate at 1 % false positives, 0.01 for guessing.
    """

    auc: float
    tpr_at_low_fpr: float


def losses(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return each example's (N,) cross-entropy in nats."""
    return functional.cross_entropy(predictions(module, x), y, reduction="none").double().cpu()


def tell_apart(members: Tensor, others: Tensor) -> Membership | None:
    """Return how well (N,) and (M,) scores separate, higher for members; None without both."""
    if not len(members) or not len(others):
        return None
    from sklearn.metrics import roc_auc_score, roc_curve  # three seconds that most runs need not

    truth = torch.cat([torch.ones(len(members)), torch.zeros(len(others))]).numpy()
    scores = torch.nan_to_num(torch.cat([members, others])).numpy()
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    return Membership(float(roc_auc_score(truth, scores)), float(true[false <= LOW_RATE].max()))


def membership(
    module: nn.Module,
    references: Sequence[nn.Module],
    members: tuple[Tensor, Tensor],
    others: tuple[Tensor, Tensor],
) -> Membership | None:
    """Attack a model with reference models: ``score = mean reference loss - loss``.

    The references never saw members or others, so they say how hard an example is by itself.

    Watson et al., "On the Importance of Difficulty Calibration in Membership Inference Attacks",
    ICLR 2022.

    Parameters
    ----------
    module : nn.Module
        The model under attack.
    references : sequence of nn.Module
        Models trained on other data; without any the score is minus the loss.
    members, others : tuple of Tensor
        Examples of one distribution with their labels.
    """

    def scores(x: Tensor, y: Tensor) -> Tensor:
        hard = [losses(reference, x, y) for reference in references]
        base = torch.stack(hard).mean(dim=0) if hard else torch.zeros(len(y), dtype=torch.float64)
        return base - losses(module, x, y)

    if not len(members[1]) or not len(others[1]):
        return None
    return tell_apart(scores(*members), scores(*others))
