"""Channels that a clean task does without, found on trusted rows, and made anew."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

_LR, _CLIP, _BATCH = 0.01, 20.0, 128


def filters(module: nn.Module) -> list[tuple[str, nn.Conv2d, nn.BatchNorm2d | None]]:
    """Return a network's trainable convolutions, each with the BatchNorm that follows it."""
    parts = list(module.named_modules())
    found: list[tuple[str, nn.Conv2d, nn.BatchNorm2d | None]] = []
    for place, (name, part) in enumerate(parts):
        if not isinstance(part, nn.Conv2d) or not part.weight.requires_grad:
            continue
        after = parts[place + 1][1] if place + 1 < len(parts) else None
        norm = after if isinstance(after, nn.BatchNorm2d) else None
        fits = norm is not None and norm.num_features == part.out_channels
        found.append((name, part, norm if fits else None))
    return found


@contextmanager
def masked(module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Multiply the channels of a network's convolutions by masks while the context lasts."""

    def times(mask: Tensor) -> Callable[[nn.Module, object, Tensor], Tensor]:
        return lambda _module, _inputs, output: output * mask.view(1, -1, 1, 1)

    hooks = []
    for name, conv, norm in filters(module):
        if name in masks:
            hooks.append((norm or conv).register_forward_hook(times(masks[name])))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def forgotten(
    module: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator, passes: int
) -> nn.Module:
    """Return a copy, in evaluation mode, that climbed the loss of rows down to chance.

    Chance is an accuracy of ``max(0.2, 2 / K)``, at most 0.6; a step that leaves the finite
    numbers is undone and ends the climb. BatchNorm's statistics stay.
    """
    copied = copy.deepcopy(module).eval()
    trained = [value for value in copied.parameters() if value.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=_LR, momentum=0.9)
    for _ in range(passes):
        for rows in torch.split(torch.randperm(len(y), generator=rng).to(x.device), _BATCH):
            kept = [value.detach().clone() for value in trained]
            optimiser.zero_grad()
            output = copied(x[rows])
            right = float((output.argmax(dim=1) == y[rows]).double().mean())
            if right <= min(max(0.2, 2.0 / output.shape[1]), 0.6):
                return copied
            torch.autograd.backward(-functional.cross_entropy(output, y[rows]))
            nn.utils.clip_grad_norm_(trained, _CLIP)
            optimiser.step()
            if not all(bool(torch.isfinite(value).all()) for value in trained):
                with torch.no_grad():
                    for value, old in zip(trained, kept, strict=True):
                        value.copy_(old)
                return copied
    return copied


def channel_masks(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    rng: torch.Generator,
    *,
    passes: int = 20,
    lr: float = 0.2,
) -> dict[str, Tensor]:
    """Return masks, (channels,) from 0 to 1 by convolution, that bring a forgotten task back.

    Steps 1 and 3 of Reconstructive Neuron Pruning (Li et al., ICML 2023): channels that must be
    shut for the clean task to come back are not to be trusted.

    Parameters
    ----------
    module : nn.Module
        The network; it stays as it is.
    x, y : Tensor
        (N, ...) trusted rows as the network takes them, and their labels.
    rng : torch.Generator
        Order of the rows.
    passes : int
        Of the climb, at most, and of the masks, at least 1.
    lr : float
        Rate of the masks, above 0.
    """
    lost = forgotten(module, x, y, rng, passes)
    masks = {
        name: torch.ones(conv.out_channels, device=x.device, requires_grad=True)
        for name, conv, _ in filters(lost)
    }
    if not masks:
        return {}
    with masked(lost, masks):
        for _ in range(passes):
            for rows in torch.split(torch.randperm(len(y), generator=rng).to(x.device), _BATCH):
                loss = functional.cross_entropy(lost(x[rows]), y[rows])
                slopes = torch.autograd.grad(loss, list(masks.values()), allow_unused=True)
                with torch.no_grad():
                    for mask, slope in zip(masks.values(), slopes, strict=True):
                        if slope is not None:
                            mask.sub_(lr * torch.nan_to_num(slope, 0.0, 0.0, 0.0)).clamp_(0.0, 1.0)
    return {name: mask.detach() for name, mask in masks.items()}


def lowest(masks: Mapping[str, Tensor], below: float, most: float) -> dict[str, Tensor]:
    """Return which channels have a mask below a value, (channels,) bool by convolution.

    At most a share `most` of all channels: those with the lowest masks.
    """
    every = torch.cat([mask.flatten() for mask in masks.values()])
    allowed = int(most * len(every))
    order = every.argsort(stable=True)[:allowed]
    flat = torch.zeros(len(every), dtype=torch.bool, device=every.device)
    flat[order] = every[order] < below
    parts = torch.split(flat, [len(mask) for mask in masks.values()])
    return dict(zip(masks, parts, strict=True))


def make_anew(module: nn.Module, chosen: Mapping[str, Tensor], rng: torch.Generator) -> int:
    """Draw channels of a network anew, in place; return how many.

    Weights uniform as PyTorch begins with them, ``|w| <= 1 / sqrt(fan in)``; a bias 0; scale,
    shift and statistics of the BatchNorm behind it 1, 0, 0 and 1.
    """
    count = 0
    with torch.no_grad():
        for name, conv, norm in filters(module):
            rows = chosen.get(name)
            if rows is None or not bool(rows.any()):
                continue
            count += int(rows.sum())
            fan = conv.weight[0].numel()
            fresh = torch.rand((int(rows.sum()), *conv.weight.shape[1:]), generator=rng)
            conv.weight[rows] = ((2.0 * fresh - 1.0) / fan**0.5).to(conv.weight)
            ones = () if norm is None else (norm.weight, norm.running_var)
            zeros = () if norm is None else (norm.bias, norm.running_mean)
            for value in ones:
                if value is not None:
                    value[rows] = 1.0
            for value in (*zeros, conv.bias):
                if value is not None:
                    value[rows] = 0.0
    return count
