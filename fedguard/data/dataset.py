"""What a data set is: tensors, held once, that clients index into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fedguard.data.byte_images import as_unit_images
from fedguard.data.checking import as_classes, as_inputs, as_scaling, as_tensor, check_pair
from fedguard.errors import ConfigurationError

_BYTES = (torch.uint8, torch.bool)
"""Types of images whatever the task; other whole numbers may be tokens where it is no classes."""


@dataclass(frozen=True)
class Dataset:
    """Rows of a task held in memory as tensors.

    Arrays become tensors, floats float32. Where the task is classification, labels of any whole
    number type and one-hot rows become class numbers, and labels that count from 1 count from 0
    (with a note); what cannot be read as classes is refused with `ConfigurationError`.

    Attributes
    ----------
    name : str
        Registered name.
    x_train, x_test : Tensor
        (N, ...) float32: images as (N, channels, height, width) scaled to [0, 1], tables as
        (N, features). Images of bytes, 0 to 255, are divided by 255, with a note; a mean or
        deviation of bytes along with them.
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
    groups : mapping of str to Tensor, optional
        What rows belong to, such as a hospital or a writer: under the name of the kind of group,
        the (N,) int64 group from 0 of each training row. The partition `natural` divides by it.
    group_names : mapping of str to tuple of str, optional
        Under the same name, the groups' names in the order of their numbers.
    facts : Any
        What the task needs to know beside the rows, such as what users have met, or a graph.
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
    groups: Mapping[str, Tensor] | None = None
    group_names: Mapping[str, tuple[str, ...]] | None = None
    facts: Any = None

    def __post_init__(self) -> None:
        classes = getattr(self.task, "name", self.task) == "classification"
        for field in ("x_train", "x_test"):
            self._set(field, as_inputs(f"dataset.{field}", getattr(self, field)))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            shape = tuple(self.x_test.shape[1:])
            allowed = f"examples of shape {self.input_shape}, as in x_train"
            raise ConfigurationError("dataset.x_test", shape, allowed)
        if classes:
            y_train, y_test, from_one = as_classes(self.y_train, self.y_test, self.num_classes)
            if from_one:
                self._set(
                    "notes", (*self.notes, "labels counted from 1: class numbers are one less")
                )
            names = tuple(str(name) for name in self.class_names)
            if len(names) != self.num_classes:
                allowed = f"{self.num_classes} names, as num_classes says"
                raise ConfigurationError("dataset.class_names", names, allowed)
            self._set("class_names", names)
            mean, std = as_scaling(self.input_shape, self.mean, self.std)
            self._set("mean", mean)
            self._set("std", std)
        else:
            y_train = as_tensor("dataset.y_train", self.y_train)
            y_test = as_tensor("dataset.y_test", self.y_test)
        tokens = not classes and not self.x_train.is_floating_point()
        if self.is_image and not (tokens and self.x_train.dtype not in _BYTES):
            self._scale_images()
        check_pair("train", self.x_train, y_train)
        check_pair("test", self.x_test, y_test)
        self._set("y_train", y_train)
        self._set("y_test", y_test)
        self._check_groups()

    def _scale_images(self) -> None:
        """Bring images of bytes to 0 to 1, with their mean and deviation."""
        found = as_unit_images(self.x_train, self.x_test, self.mean, self.std)
        for field in ("x_train", "x_test", "mean", "std"):
            self._set(field, getattr(found, field))
        self._set("notes", (*self.notes, *found.notes))

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def _check_groups(self) -> None:
        for name, groups in (self.groups or {}).items():
            names = (self.group_names or {}).get(name, ())
            known = len(names) > int(groups.max()) and int(groups.min()) >= 0
            if len(groups) != len(self.x_train) or not known:
                allowed = f"{len(self.x_train)} numbers from 0 to {len(names) - 1}, one per row"
                raise ConfigurationError(f"dataset.groups.{name}", f"{len(groups)} groups", allowed)

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
