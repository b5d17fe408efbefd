"""Preference: of two answers to a prompt, make the preferred one likelier than it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.data.text import Preferences
from fedguard.tasks.base import Task
from fedguard.tasks.next_word import BATCH


class Preference(Task):
    """Direct preference optimisation; x (N, 2, L) words, y (N, 2, L + 1), outputs (B, 2, L, V).

    ``-log sigmoid(r_0 - r_1)``, ``r = beta (log pi(answer | prompt) - log ref(answer | prompt))``,
    the preferred answer first. The first L labels are the words of an answer, below 0 where
    nothing is learnt; the last is ``-1 - number`` of the answer, by which the data set knows its
    log-probability under the reference.

    Rafailov, Sharma, Mitchell, Ermon, Manning and Finn, "Direct Preference Optimization: Your
    Language Model is Secretly a Reward Model", NeurIPS 2023. There the reference is the model that
    training starts from; here it is what the data set says, the language itself, so that a run
    should start from a model of that language (``start_from``) to be the same. Accuracy, the
    headline, is the share of pairs whose preferred answer has the larger r.
    """

    name: ClassVar[str] = "preference"
    dtype: ClassVar[torch.dtype] = torch.int64

    def __init__(self) -> None:
        self.reference, self.beta = torch.zeros(1), 0.1

    def read(self, facts: Any) -> None:
        """Learn the reference; see `Task.read`."""
        if isinstance(facts, Preferences):
            self.reference, self.beta = torch.tensor(facts.reference), facts.beta

    def margins(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (B,) ``r_0 - r_1``."""
        words, numbers = y[..., :-1], -1 - y[..., -1]
        logs = output.log_softmax(dim=-1).gather(-1, words.clamp(min=0)[..., None])[..., 0]
        own = torch.where(words >= 0, logs, 0.0).sum(dim=-1)
        rewards = self.beta * (own - self.reference.to(own)[numbers])
        return rewards[:, 0] - rewards[:, 1]

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (B,) losses in nats."""
        return -functional.logsigmoid(self.margins(output, y))

    @torch.no_grad()
    def evaluate(self, module: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Any]:
        """Return accuracy, ties counting half, and the loss in nats."""
        module.eval()
        parts = zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True)
        found = torch.cat([self.margins(module(own), wanted) for own, wanted in parts]).double()
        right = (found > 0).double() + 0.5 * (found == 0).double()
        return {
            "accuracy": float(right.mean()),
            "loss": float(-functional.logsigmoid(found).mean()),
        }

    def output_fault(self, output: Any, count: int, num_classes: int) -> str | None:
        """Return what is wrong with logits that must be (count, 2, L, V)."""
        good = isinstance(output, Tensor) and output.ndim == 4 and len(output) == count
        if good and tuple(output.shape[1::2]) == (2, num_classes):
            return None
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        return f"it returned {shape}, expected (rows, 2, words, {num_classes})"
