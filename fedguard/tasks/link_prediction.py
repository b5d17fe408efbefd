"""Link prediction: which nodes of a graph are linked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.data.graphs import Graph
from fedguard.errors import ConfigurationError
from fedguard.tasks.base import Task

_MOST = 1e4
"""Nats at which a diverged model's loss is cut."""


class LinkPrediction(Task):
    """Tell links from absent ones; x (M, 2) nodes, y (M,) 1 or 0, outputs (B, 2).

    An output is a logit and what the loss adds to its cross-entropy. A client's graph is the links
    among its own rows: the model is given it before the client trains. The server measures with
    the training edges of the whole graph: area under the ROC curve (``auc``, the headline) and
    average precision (``ap``) of the test pairs, which hold as many absent pairs as links. A
    network that has ``draw_absent`` is told a client's nodes and links, to train on other absent
    pairs than those of the rows.
    """

    name: ClassVar[str] = "link-prediction"
    headline: ClassVar[str] = "auc"
    dtype: ClassVar[torch.dtype] = torch.int64
    settles: ClassVar[bool] = True

    def __init__(self) -> None:
        self.graph: Graph | None = None

    def read(self, facts: Any) -> None:
        """Learn the graph; see `Task.read`."""
        self.graph = facts if isinstance(facts, Graph) else None

    def settle(self, module: nn.Module, x: Tensor, y: Tensor) -> None:
        """Give the model the links among a client's rows as its graph."""
        if self.graph is None or (take := getattr(module, "take_graph", None)) is None:
            return
        links = x[y > 0]
        if self.graph.clean != "svd":
            take(self.graph.features, self.graph.cleaned(links))
        elif getattr(module, "takes_rank", False):
            take(self.graph.features, links, rank=self.graph.rank)
        else:
            allowed = f"none or jaccard: {type(module).__name__} takes no low-rank graph; vgae does"
            raise ConfigurationError("dataset.clean", "svd", allowed)
        draw = getattr(module, "draw_absent", None)
        if draw is not None:
            draw(x.unique(), links)  # type: ignore[no-untyped-call]

    def _give(self, module: nn.Module, edges: Tensor) -> None:
        take = getattr(module, "take_graph", None)
        if take is not None and self.graph is not None:
            take(self.graph.features, edges)

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (B,) weighted cross-entropies in nats with what the model adds to them."""
        wanted = (y > 0).to(output.dtype)
        each = functional.binary_cross_entropy_with_logits(output[:, 0], wanted, reduction="none")
        ratio = 1.0 if self.graph is None else self.graph.ratio
        # Links count as much as absent pairs together, and the mean weight is 1.
        weights = torch.where(y > 0, (1.0 + ratio) / 2.0, (1.0 + ratio) / (2.0 * ratio))
        return weights * each + output[:, 1]

    @torch.no_grad()
    def evaluate(self, module: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Any]:
        """Return ``auc``, ``ap`` and the cross-entropy in nats; NaN where one class is missing."""
        module.eval()
        if self.graph is not None:
            self._give(module, self.graph.edges)
        logits = module(x)[:, 0]
        wanted = (y > 0).to(logits.dtype)
        each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        loss = float(each.double().nan_to_num(_MOST, _MOST, _MOST).clamp(max=_MOST).mean())
        auc, ap = link_figures(logits, y)
        return {"auc": auc, "ap": ap, "loss": loss}

    def strata(self, y: Tensor) -> Tensor:
        """Return 1 for links and 0 for absent ones."""
        return (y > 0).long()

    def output_fault(self, output: Any, count: int, num_classes: int) -> str | None:
        """Return what is wrong with an output that must be (count, 2)."""
        if isinstance(output, Tensor) and tuple(output.shape) == (count, 2):
            return None
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        return f"it returned {shape}, expected (pairs, 2): a logit and what the loss adds"


def link_figures(logits: Tensor, y: Tensor) -> tuple[float, float]:
    """Return area under the ROC curve and average precision; NaN where one class is missing."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    wanted = (y > 0).cpu().numpy()
    if wanted.all() or not wanted.any():
        return math.nan, math.nan
    scores = logits.double().nan_to_num(0.0, 1e30, -1e30).cpu().numpy()
    return float(roc_auc_score(wanted, scores)), float(average_precision_score(wanted, scores))
