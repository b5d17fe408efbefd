"""What several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ.setdefault("RAY_ADDRESS", "local")  # never a cluster that something else left behind

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def torchvision_dir() -> Path:
    """Folder with MNIST and Fashion-MNIST in torchvision's layout."""
    folder = SHARED_DATA / "torchvision"
    if not folder.exists():
        pytest.skip(f"needs MNIST's files in {folder}")
    return folder
