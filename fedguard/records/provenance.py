"""What a result depends on: the model's digest and the versions of what made it."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

from fedguard import __version__
from fedguard.records import writer as files


def model_sha256(out: Path) -> str:
    """Return the SHA-256 of the run's ``model.safetensors``."""
    return hashlib.sha256((out / files.MODEL).read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("flwr", "torch", "numpy", "scipy", "scikit-learn")
    return {
        "fedguard": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
