"""How much of a model's accuracy small changes of its inputs leave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def pgd_examples(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int,
    towards: bool = False,
) -> Tensor:
    """Return images moved by at most `eps` a pixel to where a model's loss is largest.

    ``x <- clip(x + 2.5 eps / steps sign(grad L), x - eps, x + eps)``, within [0, 1], from x itself.

    Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards Deep Learning Models Resistant to
    Adversarial Attacks", ICLR 2018; no random start, so that the result is the same each time.

    Parameters
    ----------
    model : callable
        Maps (N, ...) images on their unscaled values to (N, C) logits.
    x, y : Tensor
        (N, ...) images from 0 to 1 and their (N,) labels.
    eps : float
        Largest change of a pixel.
    steps : int
        Steps, at least 1.
    towards : bool
        Whether to look for the smallest loss instead.
    """
    moved, rate = x.clone(), 2.5 * eps / steps * (-1.0 if towards else 1.0)
    for _ in range(steps):
        with torch.enable_grad():
            asked = moved.detach().requires_grad_()
            loss = functional.cross_entropy(model(asked), y, reduction="sum")
            slope = torch.autograd.grad(loss, asked)[0]
        moved = torch.clamp(asked.detach() + rate * slope.sign(), x - eps, x + eps).clamp(0.0, 1.0)
    return moved.detach()


def pgd_accuracy(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, eps: float, steps: int
) -> float:
    """Return the share of images that stay right when moved against the model.

    For the arguments see `pgd_examples`. A model without finite outputs has 0.
    """
    with torch.no_grad():
        found = model(pgd_examples(model, x, y, eps=eps, steps=steps))
    right = (found.argmax(dim=1) == y) & torch.isfinite(found).all(dim=1)
    return float(right.double().mean())
