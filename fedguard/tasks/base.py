"""`Task`: what a data set's rows (x, y) ask of a model, and how well one does it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fedguard import registry
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError

Unit = Literal["share", "plain"]


class Task(ABC):
    """What is learnt from rows (x, y); a data set names its task.

    Every row has a loss of its own, which keeps batched executors and training rules that weigh
    rows possible. What a model is like on many rows is the task's to say.
    """

    name: ClassVar[str] = "task"
    """Its registered name, which parts that serve some tasks alone speak of."""

    headline: ClassVar[str] = "accuracy"
    """The figure of `evaluate` that runs are compared by."""

    higher_is_better: ClassVar[bool] = True

    unit: ClassVar[Unit] = "share"
    """Unit of the headline: a share of 1, or a plain number."""

    softmax: ClassVar[bool] = False
    """Whether `losses` is the cross-entropy of (B, C) outputs, so that `dense` may train it."""

    dtype: ClassVar[torch.dtype] = torch.float32
    """Type of x as the model takes it; integers are not normalised."""

    def read(self, facts: Any) -> None:  # noqa: B027
        """Learn what the data set knows beside its rows; see `Dataset.facts`."""

    def sample(self, shape: tuple[int, ...], count: int) -> Tensor:
        """Return (count, *shape) inputs of the right type, to try a model on."""
        return torch.zeros(count, *shape, dtype=self.dtype)

    @abstractmethod
    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the (B,) losses of a model's output on B rows."""

    @abstractmethod
    def evaluate(self, module: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Any]:
        """Return figures of a model on rows, the headline and ``loss`` among them."""

    def evaluate_parts(
        self, module: nn.Module, x: Tensor, y: Tensor, sizes: Sequence[int]
    ) -> list[float]:
        """Return the headline on each part of some rows, NaN for a part without rows.

        Parameters
        ----------
        module : nn.Module
            The model.
        x, y : Tensor
            The rows of all parts, one part after the other.
        sizes : sequence of int
            Rows of each part.
        """
        parts = zip(torch.split(x, list(sizes)), torch.split(y, list(sizes)), strict=True)
        return [
            float(self.evaluate(module, own, wanted)[self.headline]) if len(own) else math.nan
            for own, wanted in parts
        ]

    def strata(self, y: Tensor) -> Tensor:
        """Return the (N,) int64 group of each row, from 0, which splits and hold-outs balance."""
        return torch.zeros(len(y), dtype=torch.long)

    def output_fault(self, output: Any, count: int, num_classes: int) -> str | None:
        """Return what is wrong with a model's output on `count` rows, None if nothing is."""
        if not isinstance(output, Tensor):
            return f"it returned {type(output).__name__}"
        if output.ndim == 0 or len(output) != count:
            return f"it returned {tuple(output.shape)}, expected one output per row"
        return None

    settles: ClassVar[bool] = False
    """Whether `settle` does anything."""

    def settle(self, module: nn.Module, x: Tensor, y: Tensor) -> None:  # noqa: B027
        """Give the model what belongs to a client's whole shard, before it trains on it."""

    @property
    def told(self) -> dict[str, Any]:
        """The headline as records carry it."""
        return {
            "name": self.headline,
            "higher_is_better": self.higher_is_better,
            "unit": self.unit,
        }


def task_of(dataset: Dataset) -> Task:
    """Return the task that a data set carries: an instance, or a registered name.

    Raises
    ------
    ConfigurationError
        If it is no task.
    """
    given = dataset.task
    task = registry.create("task", given) if isinstance(given, str) else given
    if not isinstance(task, Task):
        raise ConfigurationError("dataset.task", type(task).__name__, "a name or a Task")
    task.read(dataset.facts)
    return task
