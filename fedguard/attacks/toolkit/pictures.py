"""What attacks on pictures share that change pixels and leave the labels right."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack
from fedguard.attacks.toolkit.poisoning import check_images
from fedguard.data.dataset import Dataset


class Pictures(Attack):
    """Frame: knows the data set's scaling, so that it can show a model what a model is shown.

    The attacker is whoever handed the client its pictures, and knows no model of the federation,
    so that the attack also fits honest clients with poisoned data (``poisoned_clients``).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data", "images"})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})
    alone: ClassVar[bool] = True

    _num_classes = 0
    _scaling = (torch.zeros(1), torch.ones(1))

    def bind(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        """Check that the task has images; see `Attack.bind`."""
        check_images(self, input_shape)
        self._num_classes = num_classes

    def meet(self, dataset: Dataset) -> None:
        """Learn how pictures are scaled; see `Attack.meet`."""
        shape = (-1,) + (1,) * (len(dataset.input_shape) - 1)
        mean, std = torch.tensor(dataset.mean), torch.tensor(dataset.std)
        self._scaling = (mean.view(shape), std.view(shape))

    def shown(self, x: Tensor) -> Tensor:
        """Return unscaled pictures as a model of the federation is shown them."""
        mean, std = self._scaling
        return (x - mean.to(x)) / std.to(x)
