"""Training that an attacker does for itself, on a copy of the global model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Penalty = Callable[[nn.Module], Tensor]


def trained(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rng: torch.Generator,
    *,
    epochs: int,
    lr: float,
    batch_size: int = 32,
    penalty: Penalty | None = None,
) -> nn.Module:
    """Return a copy of a model after SGD on the cross-entropy of (x, y), plus a penalty.

    Statistics of BatchNorm stay as they are; gradients are clipped to norm 10. A copy that leaves
    the finite numbers is given up for the model it came from.

    Parameters
    ----------
    model : nn.Module
        Where training begins; not changed.
    x, y : Tensor
        (N, ...) examples and (N,) labels.
    rng : torch.Generator
        Draws the order of the batches.
    epochs, lr, batch_size : int, float, int
        Passes >= 1, rate > 0, examples per step >= 1.
    penalty : callable, optional
        Maps the model in training to a scalar that is added to the loss.
    """
    student = copy.deepcopy(model).eval()
    parameters = [value for value in student.parameters() if value.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=lr)
    with torch.enable_grad():
        for _ in range(epochs):
            order = torch.randperm(len(y), generator=rng).to(x.device)
            for rows in torch.split(order, batch_size):
                optimiser.zero_grad()
                loss = functional.cross_entropy(student(x[rows]), y[rows])
                if penalty is not None:
                    loss = loss + penalty(student)
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(parameters, 10.0)
                optimiser.step()
    finite = all(bool(torch.isfinite(value).all()) for value in parameters)
    return student if finite else copy.deepcopy(model).eval()


def change_of(student: nn.Module, model: nn.Module) -> Tensor:
    """Return the (T,) float32 change from one model to another of the same kind, on the CPU.

    Trainable parameters in the model's own order, as in a layout.
    """
    pairs = zip(student.parameters(), model.parameters(), strict=True)
    parts = [(new.detach() - old.detach()).flatten() for new, old in pairs if old.requires_grad]
    return torch.cat(parts).to("cpu", torch.float32)
