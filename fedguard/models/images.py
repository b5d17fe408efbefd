"""What the image networks demand of their input."""

from __future__ import annotations

from fedguard.errors import ConfigurationError


def check_image(input_shape: tuple[int, ...], at_least: int) -> tuple[int, int, int]:
    """Return (channels, height, width), or refuse what is no image of `at_least` pixels a side.

    Raises
    ------
    ConfigurationError
        On field ``input_shape``.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < at_least:
        allowed = (
            f"an image (channels, height, width) of at least {at_least} x {at_least} pixels; "
            "the models logistic and mlp take any input"
        )
        raise ConfigurationError("input_shape", input_shape, allowed)
    channels, height, width = input_shape
    return channels, height, width
