"""Images in bytes, 0 to 255, in a data set of one's own: as 0 to 1, which everything counts on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedguard.errors import ConfigurationError

Levels = Literal["bytes", "unit", "other"]

_TOP = 255
_LIKELY = 128
"""Whole numbers in floats are taken for bytes where the largest is above it."""

Scaling = tuple[float, ...]


@dataclass(frozen=True)
class Images:
    """Images of both parts as floats, and the scaling that goes with them.

    Attributes
    ----------
    x_train, x_test : Tensor
        (N, channels, height, width) float32.
    mean, std : tuple of float
        Per channel, in the same unit.
    notes : tuple of str
        What was done, or seemed strange.
    """

    x_train: Tensor
    x_test: Tensor
    mean: Scaling
    std: Scaling
    notes: tuple[str, ...] = ()


def as_unit_images(x_train: Tensor, x_test: Tensor, mean: Scaling, std: Scaling) -> Images:
    """Return images of bytes divided by 255; others as they are.

    Bytes are whole numbers from 0 to 255: of an integer type, or floats that go beyond 128.
    Triggers and input noise are defined on values from 0 to 1, so that bytes left as they are
    would make an attack invisible. A mean or deviation above 1 is one of bytes and is divided as
    well, which leaves what models see the same.

    Parameters
    ----------
    x_train, x_test : Tensor
        (N, channels, height, width) images, of any real type.
    mean, std : tuple of float
        Per channel, as given.

    Raises
    ------
    ConfigurationError
        On ``dataset.x_train`` or ``dataset.x_test`` where whole numbers go beyond a byte, or one
        part holds bytes and the other something else than bytes or 0 to 1.
    """
    parts = {"x_train": x_train, "x_test": x_test}
    levels = {name: _levels(name, x) for name, x in parts.items()}
    floats = {name: x.to(torch.float32) for name, x in parts.items()}
    if "bytes" not in levels.values():
        notes = (_strange(floats["x_train"]),) if levels["x_train"] == "other" else ()
        return Images(floats["x_train"], floats["x_test"], mean, std, tuple(filter(None, notes)))
    for name, x in parts.items():
        dark = levels[name] == "unit" and not x.is_floating_point()
        if levels[name] == "other":
            allowed = "bytes, 0 to 255, or 0 to 1, as the other part holds them"
            raise ConfigurationError(f"dataset.{name}", _range(floats[name]), allowed)
        if levels[name] == "bytes" or dark:
            floats[name] = floats[name] / _TOP
    if max((*map(abs, mean), *std)) > 1.0:
        mean, std = (tuple(value / _TOP for value in values) for values in (mean, std))
    told = ("images in bytes, 0 to 255, divided by 255",)
    return Images(floats["x_train"], floats["x_test"], mean, std, told)


def _levels(name: str, x: Tensor) -> Levels:
    low, high = float(x.min()), float(x.max())
    if x.dtype == torch.bool or (low >= 0 and high <= 1):
        return "unit"
    inside = low >= 0 and high <= _TOP
    if not x.is_floating_point():
        if inside:
            return "bytes"
        allowed = f"whole numbers from 0 to {_TOP}, or floats from 0 to 1: divide by the largest"
        raise ConfigurationError(f"dataset.{name}", _range(x), allowed)
    return "bytes" if inside and high > _LIKELY and bool((x == x.round()).all()) else "other"


def _strange(x: Tensor) -> str:
    """Return a note on images that are neither from 0 to 1 nor centred on 0."""
    if float(x.min()) < 0:
        return ""
    return f"images of {_range(x)}: triggers and input noise are defined on values from 0 to 1"


def _range(x: Tensor) -> str:
    return f"values from {float(x.min()):g} to {float(x.max()):g}"
