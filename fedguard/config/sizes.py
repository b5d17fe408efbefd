"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from fedguard.errors import ConfigurationError

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}

LEAST = 1 << 20
"""Less than a mebibyte holds no block worth reading."""


def bytes_of(field: str, text: str) -> int:
    """Return how many bytes a size is, such as ``4GB``, ``500 MB`` or ``1.5GiB``.

    Raises
    ------
    ConfigurationError
        On `field`, if it is no size, or one below a mebibyte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    count = int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if count < LEAST:
        raise ConfigurationError(field, text, "a size of at least 1MiB, such as 4GB or 500MB")
    return count
