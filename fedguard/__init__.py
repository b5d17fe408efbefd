"""fedguard: what happens to a federated model when some clients lie, and which defence saves it."""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import Any

from fedguard._moved import keep_old_paths

__version__ = "0.2.0"

_OFFERED = {
    "run": "fedguard.door",
    "sweep": "fedguard.door",
    "compare": "fedguard.door",
    "load": "fedguard.door",
    "audit": "fedguard.door",
    "guard": "fedguard.grids.guard",
    "Guarded": "fedguard.grids.guarded",
    "Result": "fedguard.commands.results",
    "Page": "fedguard.commands.results",
    "Sweep": "fedguard.commands.results",
    "Comparison": "fedguard.commands.results",
    "ConfigurationError": "fedguard.errors",
    "RunError": "fedguard.errors",
}
"""What the package itself offers, and where it lies; imported when it is asked for."""

__all__ = ["__version__", *_OFFERED]

keep_old_paths()


def __getattr__(name: str) -> Any:
    """Import what is asked for: ``import fedguard`` alone costs nothing."""
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(_OFFERED[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_OFFERED})
