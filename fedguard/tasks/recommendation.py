"""Sequential recommendation: which item a user takes next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.data.histories import Histories, user_of
from fedguard.metrics.ranking import mean_ranks
from fedguard.tasks.base import Task

_BATCH = 256
_MOST = 1e4
"""Nats at which a diverged model's loss is cut."""


class Recommendation(Task):
    """Rank the next item; x (N, L) and y (N, L + 1) int64, outputs (B, L, V + 1) logits.

    A row of x is a user's history, items from 1, 0 before it begins. y says what follows at every
    place, -1 where nothing is to be learnt, and in its last column which user it is. A row's loss
    is the mean cross-entropy of what follows. Of a test row the last place is ranked among all
    items that its user has not met: the share of users whose item is among the first ten
    (``hr@10``, the headline), and its discounted gain (``ndcg@10``). A training row is judged by
    its own last item.
    """

    name: ClassVar[str] = "recommendation"
    headline: ClassVar[str] = "hr@10"
    dtype: ClassVar[torch.dtype] = torch.int64

    def __init__(self) -> None:
        self.histories: Histories | None = None

    def read(self, facts: Any) -> None:
        """Learn what users have met; see `Task.read`."""
        self.histories = facts if isinstance(facts, Histories) else None

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (B,) mean cross-entropies of what follows in the rows, in nats; 0 for none."""
        wanted = y[:, : output.shape[1]]
        known = wanted > 0
        flat = functional.cross_entropy(
            output.flatten(0, 1), wanted.clamp(min=0).flatten(), reduction="none"
        )
        each = torch.where(known.flatten(), flat, 0.0).view(wanted.shape)
        return each.sum(dim=1) / known.sum(dim=1).clamp(min=1)

    @torch.no_grad()
    def evaluate(self, module: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Any]:
        """Return ``hr@10``, ``ndcg@10`` and the loss of each row's last item in nats."""
        module.eval()
        hits, gains, total, rows = 0.0, 0.0, 0.0, max(len(x), 1)
        for part, own in zip(torch.split(x, _BATCH), torch.split(y, _BATCH), strict=True):
            history, wanted = _asked(part, own)
            scores = following(module, history)
            each = functional.cross_entropy(scores, wanted, reduction="none").double()
            total += float(each.nan_to_num(_MOST, _MOST, _MOST).clamp(max=_MOST).sum())
            ranks = mean_ranks(self._open(scores, own[:, -1], wanted), wanted)
            hits += float((ranks < 10).sum())
            gains += float(torch.where(ranks < 10, 1.0 / (ranks + 2.0).log2(), 0.0).sum())
        return {"hr@10": hits / rows, "ndcg@10": gains / rows, "loss": total / rows}

    def _open(self, scores: Tensor, marks: Tensor, wanted: Tensor) -> Tensor:
        """Return scores without those of items that the user has met; the wanted one stays."""
        found = scores.clone()
        found[:, 0] = -math.inf
        if self.histories is not None:
            rows, items = self.histories.met_by(user_of(marks))
            found[rows.to(scores.device), items.to(scores.device)] = -math.inf
        found.scatter_(1, wanted[:, None], scores.gather(1, wanted[:, None]))
        return found

    def output_fault(self, output: Any, count: int, num_classes: int) -> str | None:
        """Return what is wrong with logits that must be (count, L, V + 1)."""
        good = isinstance(output, Tensor) and output.ndim == 3 and len(output) == count
        if good and output.shape[2] == num_classes:
            return None
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        return f"it returned {shape}, expected (rows, items of a history, {num_classes})"


def following(module: nn.Module, x: Tensor) -> Tensor:
    """Return (B, V + 1) logits of what follows (B, L) histories.

    A module may have a method `following` that works out no other place.
    """
    shortcut = getattr(module, "following", None)
    found: Tensor = module(x)[:, -1] if shortcut is None else shortcut(x)
    return found


def _asked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return histories and the (B,) items that follow; of a training row, its own last item."""
    length = x.shape[1]
    following = y[:, length - 1]
    inner = following <= 0
    shifted = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
    history = torch.where(inner[:, None], shifted, x)
    return history, torch.where(inner, x[:, -1], following)
