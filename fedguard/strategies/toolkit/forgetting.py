"""Making a model forget its clean task by climbing its loss; a backdoor survives longer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedguard.strategies.toolkit.server_tools import ServerTools


@dataclass(frozen=True)
class Forgotten:
    """A model that forgot its clean task.

    Attributes
    ----------
    model : nn.Module
        A copy of the server's model after the climb, in evaluation mode.
    label : int
        Class that it predicts most often on the clean rows.
    confidence : float
        Share of the rows for which it predicts it.
    accuracy : float
        Accuracy on the clean rows after the climb, in evaluation mode.
    steps : int
        Steps taken.
    """

    model: nn.Module
    label: int
    confidence: float
    accuracy: float
    steps: int


@dataclass(frozen=True)
class Climb:
    """How to climb; the defaults are the ones that small networks survive.

    Attributes
    ----------
    lr, momentum, weight_decay : float
        Of SGD on minus the loss.
    passes : int
        Most passes over the rows.
    batch_size : int
        Rows per step.
    clip : float or None
        Longest gradient of a step.
    running : bool
        Stop by the accuracy of the steps of a pass (training mode), as the authors' code does,
        and not by the model's accuracy in evaluation mode after each step.
    milestones : tuple of int
        Passes after which the rate is a tenth of what it was.
    """

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    passes: int = 20
    batch_size: int = 128
    clip: float | None = 20.0
    running: bool = False
    milestones: tuple[int, ...] = (10, 20)


def chance(num_classes: int) -> float:
    """Return the accuracy below which a model has forgotten: ``max(0.2, 2 / K)``, at most 0.6."""
    return min(max(0.2, 2.0 / num_classes), 0.6)


@contextmanager
def own_noise(device: torch.device, rng: torch.Generator) -> Iterator[None]:
    """Let a network that draws random numbers (dropout) draw from a seed of `rng`."""
    seed = int(torch.randint(2**62, (1,), generator=rng))
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(seed)
        yield


def forget(
    tools: ServerTools, x: Tensor, y: Tensor, how: Climb, stop: float, rng: torch.Generator
) -> Forgotten:
    """Return a copy of the server's model that climbed its loss on clean rows.

    Parameters
    ----------
    tools : ServerTools
        The model, which stays as it is, and the task.
    x, y : Tensor
        (N, ...) clean rows and their labels.
    how : Climb
        Rate, passes, clipping.
    stop : float
        Accuracy on the rows at which the climb ends.
    rng : torch.Generator
        Stream of the batches.
    """
    with torch.enable_grad(), own_noise(x.device, rng):
        return _climb(tools, x, y, how, stop, rng)


def _climb(
    tools: ServerTools, x: Tensor, y: Tensor, how: Climb, stop: float, rng: torch.Generator
) -> Forgotten:
    model = copy.deepcopy(tools.model)
    kept = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=how.lr,
        momentum=how.momentum,
        weight_decay=how.weight_decay,
    )
    steps = 0
    for done in range(how.passes):
        hits, seen = 0, 0
        for rows in torch.split(torch.randperm(len(y), generator=rng).to(x.device), how.batch_size):
            if len(rows) < min(2, len(y)):
                continue
            right = _step(model, optimiser, tools, x[rows], y[rows], how)
            if right is None:  # past the largest number: the last model that was finite
                model.load_state_dict(kept)
                return _told(model, tools, x, y, steps)
            hits, seen, steps = hits + right, seen + len(rows), steps + 1
            kept = copy.deepcopy(model.state_dict())
            if not how.running and accuracy(model, x, y) <= stop:
                return _told(model, tools, x, y, steps)
        if how.running and hits <= stop * seen:
            break
        if done + 1 in how.milestones:
            for group in optimiser.param_groups:
                group["lr"] *= 0.1
    return _told(model, tools, x, y, steps)


def _step(
    model: nn.Module,
    optimiser: torch.optim.SGD,
    tools: ServerTools,
    x: Tensor,
    y: Tensor,
    how: Climb,
) -> int | None:
    """Take one step up; return how many rows were right before it, None past finite numbers."""
    model.train()
    optimiser.zero_grad()
    output = model(x)
    torch.autograd.backward(-tools.task.losses(output, y).mean())
    if how.clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), how.clip)
    optimiser.step()
    finite = all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    return int((output.argmax(dim=1) == y).sum()) if finite else None


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of rows that a model predicts right, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return float((model(x).argmax(dim=1) == y).double().mean())


def _told(model: nn.Module, tools: ServerTools, x: Tensor, y: Tensor, steps: int) -> Forgotten:
    model.eval()
    with torch.no_grad():
        predicted = model(x).argmax(dim=1)
    counts = predicted.bincount(minlength=tools.num_classes)
    right = float((predicted == y).double().mean())
    label = int(counts.argmax())
    return Forgotten(model, label, float(counts[label]) / len(y), right, steps)
