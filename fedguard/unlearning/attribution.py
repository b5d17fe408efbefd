"""How much each hidden unit contributes to a network's belief in the labels of some rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedguard.unlearning.pruning import PrunableLayer


def contributions(
    module: nn.Module, layers: Sequence[PrunableLayer], x: Tensor, y: Tensor, batch: int = 500
) -> Tensor:
    """Return each unit's mean contribution to the labels of examples, (all units,) float64.

    ``c_j(x, y) = max(0, sum over positions of a_j dm/da_j)`` with the unit's output a and the
    margin ``m = z_y - log sum over k != y of exp z_k``; activation times gradient as in Molchanov
    et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017,
    of the margin in place of the loss, which hardly has a gradient on rows that are known well.

    Parameters
    ----------
    module : nn.Module
        The network; its gradients are left alone.
    layers : sequence of PrunableLayer
        Whose units.
    x, y : Tensor
        (N, ...) normalised examples and their (N,) labels.
    batch : int
        Examples at a time.
    """
    parts, seen = dict(module.named_modules()), dict[str, Tensor]()

    def keeper(name: str) -> Any:
        def keep(_: nn.Module, __: Any, output: Tensor) -> None:
            seen[name] = output

        return keep

    total = torch.zeros(sum(layer.units for layer in layers), dtype=torch.float64)
    if not len(y):
        return total
    handles = [parts[layer.readout].register_forward_hook(keeper(layer.name)) for layer in layers]
    module.eval()
    try:
        for rows, labels in zip(torch.split(x, batch), torch.split(y, batch), strict=True):
            with torch.enable_grad():
                margin = _margins(module(rows), labels).sum()
                outputs = [seen[layer.name] for layer in layers]
                slopes = torch.autograd.grad(margin, outputs, materialize_grads=True)
            parted = [
                (output.detach() * slope).reshape(len(rows), layer.units, -1).sum(dim=2)
                for layer, output, slope in zip(layers, outputs, slopes, strict=True)
            ]
            total += torch.cat(parted, dim=1).clamp(min=0.0).double().sum(dim=0).cpu()
    finally:
        for handle in handles:
            handle.remove()
    return total / len(y)


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each example's (N,) log odds of its label."""
    index = labels.unsqueeze(1)
    own = logits.gather(1, index).squeeze(1)
    return own - logits.scatter(1, index, float("-inf")).logsumexp(dim=1)
