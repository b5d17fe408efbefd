"""Training on the server's rows: learning rates over the steps, and images that vary."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.strategies.toolkit.forgetting import own_noise
from fedguard.strategies.toolkit.server_tools import ServerTools

Rate = Callable[[float], float]
"""Learning rate by the share of the training that is done, 0 to below 1."""

Extra = Callable[[Tensor], Tensor]
"""A scalar to add to the loss of a batch, from the batch's rows as the model saw them."""


def constant(lr: float) -> Rate:
    """Return a rate that stays."""
    return lambda _: lr


def two_steps(high: float, low: float, share: float) -> Rate:
    """Return a rate that is `high` for the first `share` of the training, then `low`."""
    return lambda done: high if done < share else low


def cycles(low: float, high: float, count: int) -> Rate:
    """Return a rate that climbs from `low` to `high` and falls again, `count` times."""
    return lambda done: low + (high - low) * 0.5 * (1.0 - math.cos(2.0 * math.pi * count * done))


@dataclass(frozen=True)
class Passes:
    """How a model is trained on the server's rows, by SGD with momentum 0.9.

    Attributes
    ----------
    rate : callable
        Learning rate over the training.
    count, batch_size : int
        Passes over the rows, and rows per step.
    weight_decay : float
        L2 penalty.
    nesterov : bool
        Whether momentum looks ahead.
    augment, flip : bool
        Whether images are moved and cut (`varied`), and mirrored.
    """

    rate: Rate
    count: int
    batch_size: int
    weight_decay: float = 0.0
    nesterov: bool = False
    augment: bool = False
    flip: bool = False


def train_on_rows(
    tools: ServerTools,
    model: nn.Module,
    how: Passes,
    rng: torch.Generator,
    *,
    extra: Extra | None = None,
    after_step: Callable[[], object] | None = None,
) -> bool:
    """Train a model on the server's rows; return whether it stayed finite.

    One that left the finite numbers is put back as it was.

    Parameters
    ----------
    tools : ServerTools
        Rows and task.
    model : nn.Module
        What is trained; in evaluation mode afterwards.
    how : Passes
        Rate, passes, variations.
    rng : torch.Generator
        Order of the rows and their variations.
    extra : callable, optional
        A further term of the loss; called after the model has run on the batch.
    after_step : callable, optional
        Called after every step, such as to shut channels again.
    """
    before = copy.deepcopy(model.state_dict())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(
        trained,
        lr=how.rate(0.0),
        momentum=0.9,
        weight_decay=how.weight_decay,
        nesterov=how.nesterov,
    )
    count = len(tools.y)
    steps = how.count * math.ceil(count / how.batch_size)
    step = 0
    with torch.enable_grad(), own_noise(tools.x.device, rng):
        for _ in range(how.count):
            order = torch.randperm(count, generator=rng).to(tools.x.device)
            for rows in torch.split(order, how.batch_size):
                step += 1
                if len(rows) < min(2, count):
                    continue
                for group in optimiser.param_groups:
                    group["lr"] = how.rate((step - 1) / steps)
                x = varied(tools.x[rows], rng, flip=how.flip) if how.augment else tools.x[rows]
                model.train()
                optimiser.zero_grad()
                loss = tools.task.losses(model(x), tools.y[rows]).mean()
                if extra is not None:
                    loss = loss + extra(x)
                torch.autograd.backward(loss)
                optimiser.step()
                if after_step is not None:
                    after_step()
    model.eval()
    finite = all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    if not finite:
        model.load_state_dict(before)
    return finite


def varied(x: Tensor, rng: torch.Generator, *, flip: bool = False, most: int = 3) -> Tensor:
    """Return images moved by a few pixels, with a small square cut out, and mirrored.

    Parameters
    ----------
    x : Tensor
        (B, channels, height, width) images; anything else is returned as it is.
    rng : torch.Generator
        Draws for every image of its own.
    flip : bool
        Whether half of them are mirrored left to right; wrong where a mirrored image is another
        class, as for digits and traffic signs.
    most : int
        Longest move in pixels, and side of the square; at most a quarter of the image.
    """
    if x.dim() != 4 or not x.is_floating_point():
        return x
    count, _, height, width = x.shape
    most = min(most, height // 4, width // 4)
    if most < 1:
        return x
    down, right = torch.randint(0, 2 * most + 1, (2, count), generator=rng).to(x.device)
    top = torch.randint(0, height - most + 1, (count,), generator=rng).to(x.device)
    left = torch.randint(0, width - most + 1, (count,), generator=rng).to(x.device)
    mirrored = (torch.rand(count, generator=rng) < 0.5).to(x.device) & flip
    rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
    padded = functional.pad(x, (most,) * 4, mode="replicate")
    from_row = down[:, None] + rows
    across = torch.where(mirrored[:, None], columns.flip(0), columns)
    from_column = right[:, None] + across
    each = torch.arange(count, device=x.device)[:, None, None]
    moved = padded[each, :, from_row[:, :, None], from_column[:, None, :]].permute(0, 3, 1, 2)
    cut_rows = (rows >= top[:, None]) & (rows < top[:, None] + most)
    cut_columns = (columns >= left[:, None]) & (columns < left[:, None] + most)
    cut = cut_rows[:, None, :, None] & cut_columns[:, None, None, :]
    return moved.masked_fill(cut, 0.0)
