"""What a data set of one's own may hold, as the tensors that everything else counts on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedguard.errors import ConfigurationError

_LABELS = "(N,) class numbers from 0"


def as_tensor(field: str, values: Any) -> Tensor:
    """Return a tensor of what may be an array or a list.

    Raises
    ------
    ConfigurationError
        On `field` if it holds anything but numbers.
    """
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
        writable = array if array.flags.writeable else array.copy()
        return torch.from_numpy(np.ascontiguousarray(writable))
    except (TypeError, ValueError, RuntimeError) as error:
        allowed = "a tensor or array of numbers, one row per example, all of one shape"
        raise ConfigurationError(field, type(values).__name__, allowed) from error


def as_inputs(field: str, values: Any) -> Tensor:
    """Return (N, ...) inputs: float32, or whole numbers (bytes of images too) as they are.

    Raises
    ------
    ConfigurationError
        On `field` if there are none, a row has no features, or one is missing or infinite.
    """
    x = as_tensor(field, values)
    if x.ndim < 1 or len(x) == 0:
        allowed = (
            "at least one row; fedguard.data.sampling.stratified_split(y, 0.2) sets some aside"
        )
        raise ConfigurationError(field, f"{tuple(x.shape)} values", allowed)
    if x.is_complex():
        raise ConfigurationError(field, str(x.dtype), "real numbers")
    if x.dtype in (torch.bool, torch.uint8) and x.ndim != 4:
        x = x.to(torch.float32)
    if x.is_floating_point():
        x = x.to(torch.float32)
        # The sum is quick and finite unless a value is not, or the values are huge.
        if not math.isfinite(float(x.sum())) and not bool(torch.isfinite(x).all()):
            rows = int((~torch.isfinite(x.reshape(len(x), -1))).any(dim=1).sum())
            allowed = "finite numbers; leave these rows out or fill them in"
            raise ConfigurationError(field, f"{rows} rows with NaN or infinity", allowed)
    return x


def as_classes(y_train: Any, y_test: Any, classes: int) -> tuple[Tensor, Tensor, bool]:
    """Return (N,) and (M,) int64 class numbers from 0, and whether they were counted from 1.

    Whole numbers of any type and one-hot rows are converted. Labels of 1 to `classes` in both
    parts together are taken to count from 1.

    Raises
    ------
    ConfigurationError
        On ``dataset.y_train`` or ``dataset.y_test`` if they are no class numbers.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise ConfigurationError("dataset.num_classes", classes, "a whole number >= 2")
    parts = [
        _class_numbers(field, labels, classes)
        for field, labels in (("dataset.y_train", y_train), ("dataset.y_test", y_test))
    ]
    lowest = min(int(part.min()) for part in parts if len(part))
    highest = max(int(part.max()) for part in parts if len(part))
    if (lowest >= 1) and (highest == classes):
        return parts[0] - 1, parts[1] - 1, True
    for field, part in zip(("dataset.y_train", "dataset.y_test"), parts, strict=True):
        wrong = part[(part < 0) | (part >= classes)]
        if len(wrong):
            allowed = f"{_LABELS} to {classes - 1}, or a larger num_classes"
            raise ConfigurationError(field, int(wrong[0]), allowed)
    return parts[0], parts[1], False


def _class_numbers(field: str, labels: Any, classes: int) -> Tensor:
    y = as_tensor(field, labels)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.shape[1] == classes:
        if not bool(((y == 0) | (y == 1)).all() and (y.sum(dim=1) == 1).all()):
            allowed = (
                f"{_LABELS}, or one-hot rows with a single 1; some rows here have none or more"
            )
            raise ConfigurationError(field, f"{tuple(y.shape)} values", allowed)
        return y.to(torch.float32).argmax(dim=1)
    if y.ndim != 1:
        raise ConfigurationError(field, f"{tuple(y.shape)} values", f"{_LABELS}, one per row")
    if y.is_floating_point():
        odd = y[~torch.isfinite(y) | (y != y.round())]
        if len(odd):
            allowed = f"{_LABELS}; a number to predict needs another task than classification"
            raise ConfigurationError(field, float(odd[0]), allowed)
    elif y.is_complex():
        raise ConfigurationError(field, str(y.dtype), _LABELS)
    return y.to(torch.int64)


def as_scaling(
    shape: tuple[int, ...], mean: Any, std: Any
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation as tuples that fit examples of this shape.

    Raises
    ------
    ConfigurationError
        On ``dataset.mean`` or ``dataset.std`` if there are neither one nor as many as channels or
        features, or a deviation is not above 0.
    """
    wanted = shape[0] if shape else 1
    found = []
    for field, values in (("dataset.mean", mean), ("dataset.std", std)):
        given = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
        numbers = tuple(float(one) for one in given) if isinstance(given, Iterable) else (given,)
        if len(numbers) not in (1, wanted) or not all(map(math.isfinite, numbers)):
            allowed = f"1 or {wanted} finite numbers, one per channel or feature"
            raise ConfigurationError(field, numbers, allowed)
        found.append(numbers)
    if min(found[1]) <= 0:
        allowed = "numbers > 0; write 1.0 for a feature that never changes"
        raise ConfigurationError("dataset.std", min(found[1]), allowed)
    return found[0], found[1]


def check_pair(part: str, x: Tensor, y: Tensor) -> None:
    """Raise `ConfigurationError` unless there are as many labels as rows."""
    if len(x) != len(y):
        allowed = f"{len(x)}, one label for each row of x_{part}"
        raise ConfigurationError(f"dataset.y_{part}", f"{len(y)} labels", allowed)
