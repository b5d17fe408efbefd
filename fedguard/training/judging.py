"""What a client's model makes of its own rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fedguard.training.base import Local


def judged(local: Local, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N,) losses and hits of the model on rows, in evaluation mode."""
    local.module.eval()
    parts = []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(y), device=y.device), 512):
            output = local.module(x[rows])
            losses = functional.cross_entropy(output, y[rows], reduction="none")
            parts.append((losses, output.argmax(dim=1) == y[rows]))
    local.module.train()
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
