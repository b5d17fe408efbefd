"""Scores of many client models on the server's examples, in one batched pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedguard.layout import ParameterLayout
from fedguard.metrics.classification import confusion_matrix, macro_f1
from fedguard.strategies.toolkit.server_tools import ServerTools

_GROUP_BYTES = 1 << 25
"""Most bytes of model copies and of logits that one batched pass holds."""


@dataclass(frozen=True)
class Scores:
    """What K models do on the server's validation examples.

    Attributes
    ----------
    macro_f1 : Tensor
        (K,) float64 mean F1 over the classes that have validation examples; 0 where the logits
        are not finite.
    recall : Tensor
        (K, C) float64 share of each class classified correctly; NaN for a class without examples.
    confidence : Tensor
        (K, C) float64 mean probability that each class's examples are given for their own class;
        NaN likewise.
    finite : Tensor
        (K,) bool, whether all logits are finite.
    """

    macro_f1: Tensor
    recall: Tensor
    confidence: Tensor
    finite: Tensor

    def rows(self, start: int, stop: int | None = None) -> Scores:
        """Return the scores of some of the models."""
        part = slice(start, stop)
        return Scores(
            self.macro_f1[part], self.recall[part], self.confidence[part], self.finite[part]
        )


def score_models(
    tools: ServerTools, layout: ParameterLayout, models: Tensor, around: Tensor | None = None
) -> Scores:
    """Return the scores of (K, D) models; the tools' model and data are not written to.

    Models are evaluated side by side, `torch.vmap` over rows in groups that fit in memory; a
    network that it cannot map is evaluated one model at a time. With a model `around` (D,) given,
    `models` are differences to it and its own score comes first, so there are K + 1; no matrix
    of whole models is made.
    """
    training = [part for part in tools.model.modules() if part.training]
    tools.model.eval()
    try:
        logits = _all_logits(tools, layout, models, around)
    finally:
        for part in training:
            part.training = True
    return _scores(logits, tools.y, tools.num_classes)


@torch.no_grad()
def _all_logits(
    tools: ServerTools, layout: ParameterLayout, models: Tensor, around: Tensor | None
) -> Tensor:
    """Return (K, M, C) logits, of `around` before them if given."""
    row_bytes = 4 * (layout.size + len(tools.y) * max(tools.num_classes, 256))
    group = max(1, _GROUP_BYTES // row_bytes)
    found = []
    parts = list(torch.split(models, group))
    for part in parts if around is None else [torch.zeros_like(models[:1]), *parts]:
        part = (part if around is None else around + part).to(tools.x.device)
        try:
            found.append(_batched(tools.model, layout, part, tools.x))
        except (RuntimeError, NotImplementedError, ValueError):
            found.append(_one_by_one(tools.model, layout, part, tools.x))
    return torch.cat(found)


def _tensors(layout: ParameterLayout, models: Tensor) -> dict[str, Tensor]:
    """Return the named tensors of (K, D) models, each (K, *shape); integers rounded back."""
    parts = zip(
        layout.names, layout.shapes, layout.dtypes, layout.offsets, layout.offsets[1:], strict=False
    )
    found = {}
    for name, shape, dtype, start, end in parts:
        value = models[:, start:end].reshape(len(models), *shape)
        wanted: torch.dtype = getattr(torch, dtype)
        found[name] = value if wanted.is_floating_point else value.round().to(wanted)
    return found


def _batched(module: nn.Module, layout: ParameterLayout, models: Tensor, x: Tensor) -> Tensor:
    def forward(tensors: dict[str, Tensor]) -> Tensor:
        logits: Tensor = functional_call(module, tensors, (x,))
        return logits

    logits: Tensor = vmap(forward)(_tensors(layout, models))
    return logits


def _one_by_one(module: nn.Module, layout: ParameterLayout, models: Tensor, x: Tensor) -> Tensor:
    tensors = _tensors(layout, models)
    rows = [{name: value[row] for name, value in tensors.items()} for row in range(len(models))]
    return torch.stack([functional_call(module, row, (x,)) for row in rows])


def _scores(logits: Tensor, y: Tensor, num_classes: int) -> Scores:
    logits = logits.to(torch.float64)
    finite = torch.isfinite(logits).flatten(1).all(dim=1)
    logits = torch.where(finite[:, None, None], logits, 0.0)
    predicted = logits.argmax(dim=2)
    confusion = torch.stack([confusion_matrix(y, row, num_classes) for row in predicted])
    totals = y.bincount(minlength=num_classes).to(torch.float64)
    own = logits.softmax(dim=2).gather(2, y.expand(len(logits), -1)[:, :, None])[:, :, 0]
    members = torch.nn.functional.one_hot(y, num_classes).to(torch.float64)
    recall = confusion.diagonal(dim1=1, dim2=2) / totals
    scores = torch.where(finite, macro_f1(confusion), 0.0)
    return Scores(scores.cpu(), recall.cpu(), (own @ members / totals).cpu(), finite.cpu())
