"""Encoders for tests, trained by the project's own script on handwritten digits."""

from __future__ import annotations

from functools import cache

from fedguard.data.dataset import Dataset
from fedguard.data.digits import Digits
from fedguard.training.encoder import Encoder
from simulations.encoder import pretrained, scaling


@cache
def digits() -> Dataset:
    return Digits().load(None)


@cache
def of_digits() -> Encoder:
    """Return an encoder of 8 x 8 digits; not to be changed."""
    data = digits()
    return pretrained(scaling(data)(data.x_train), data.y_train, epochs=4, widths=(8, 8, 16, 32))
