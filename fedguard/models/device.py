"""Where a model lives: the device that a configuration names."""

from __future__ import annotations

import torch

from fedguard.errors import ConfigurationError


def resolve_device(name: str) -> torch.device:
    """Return the device that a configuration names.

    Raises
    ------
    ConfigurationError
        If the machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            "device", name, f"auto or cpu; this machine has {torch.cuda.device_count()} GPUs"
        )
    return device
