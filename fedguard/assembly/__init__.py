"""Makes the parts that a configuration names, and finds what does not fit before round 1."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Return what was a function of the module `fedguard.assembly` in version 0.1."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = (import_module(f"{__name__}.{module}") for module in ("make", "strategy"))
    for home in homes:
        if name in vars(home):
            return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
