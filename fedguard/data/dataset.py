"""What a data set is: tensors, held once, that clients index into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Rows of a task held in memory as tensors.

    Attributes
    ----------
    name : str
        Registered name.
    x_train, x_test : Tensor
        (N, ...) float32: images as (N, channels, height, width) scaled to [0, 1], tables as
        (N, features).
    y_train, y_test : Tensor
        (N,) int64 class numbers from 0.
    num_classes : int
        Number of classes C.
    class_names : tuple of str
        C names, in class order.
    mean, std : tuple of float
        Per channel (images) or feature (tables): models see ``(x - mean) / std``. Kept beside the
        data so that triggers and input noise are defined on the unscaled values.
    notes : tuple of str
        What a reader of the results should know, such as rows that were dropped.
    task : str or Task
        What is learnt from the rows: a registered task, or one of the data set's own.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    task: Any = "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, without the batch dimension."""
        return tuple(self.x_train.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether examples are (channels, height, width)."""
        return len(self.input_shape) == 3


class DatasetLoader(Protocol):
    """A registered data set: constructor arguments are its options."""

    def load(self, data_dir: Path | None) -> Dataset:
        """Read the data set, from `data_dir` where it needs files.

        Raises
        ------
        ConfigurationError
            On field ``data_dir`` if the files are neither there nor to be had, with one line that
            says what to do.
        """
        ...
