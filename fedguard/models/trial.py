"""Trying a network before the first round: what it returns, and whether it trains."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedguard.errors import ConfigurationError

ROWS = 2
"""Examples of a trial."""


class TriedTask(Protocol):
    """What a trial needs of a task: examples to try, and what it says of an output."""

    def sample(self, shape: tuple[int, ...], count: int) -> Tensor:
        """Return (count, *shape) inputs."""
        ...

    def output_fault(self, output: Any, count: int, num_classes: int) -> str | None:
        """Return what is wrong with an output on `count` rows; None if nothing is."""
        ...


class Logits:
    """Classification: (B, C) logits of float inputs."""

    def sample(self, shape: tuple[int, ...], count: int) -> Tensor:
        """Return (count, *shape) zeros."""
        return torch.zeros(count, *shape)

    def output_fault(self, output: Any, count: int, num_classes: int) -> str | None:
        """Return what is wrong with what should be (count, num_classes) logits."""
        if isinstance(output, Tensor) and output.shape == (count, num_classes):
            return None
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        return f"it returned {shape}"


def try_network(
    name: str, model: nn.Module, input_shape: tuple[int, ...], num_classes: int, task: TriedTask
) -> Tensor:
    """Run two examples through a network, as it is evaluated and as it is trained.

    Its parameters and buffers are afterwards what they were. Floats of another size than 32 bits
    become float32, which is what clients and server exchange.

    Returns
    -------
    Tensor
        The two examples.

    Raises
    ------
    ConfigurationError
        On ``model`` if it fails, returns something else, or has nothing to train.
    """
    x = task.sample(input_shape, ROWS)
    wanted = f"a network that maps inputs of shape {input_shape} to {num_classes} logits"
    if not isinstance(task, Logits):
        wanted = f"a network for inputs of shape {input_shape}"
    model.float()
    try:
        with torch.no_grad():
            fault = task.output_fault(model.eval()(x), ROWS, num_classes)
        if fault is None:
            fault = _try_training(model, x, num_classes, task)
    except Exception as error:  # a user's network may raise anything
        raise ConfigurationError("model", name, f"{wanted} ({_reason(error)})") from error
    if fault is not None:
        raise ConfigurationError("model", name, f"{wanted} ({fault})")
    return x


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    plain = isinstance(error, RuntimeError | ValueError | TypeError | IndexError)
    return text if text and plain else f"{type(error).__name__}: {text}"


def _try_training(model: nn.Module, x: Tensor, num_classes: int, task: TriedTask) -> str | None:
    """Return what is wrong with the network as it is trained; None if nothing is."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return "it has no parameter to train"
    before = {key: value.detach().clone() for key, value in model.state_dict().items()}
    try:
        output = model.train()(x)
        fault = task.output_fault(output, ROWS, num_classes)
        if fault is not None:
            return f"in training {fault}"
        if not output.requires_grad:
            return "its output does not depend on what is trained"
        output.sum().backward()
    finally:
        with torch.no_grad():
            for key, value in model.state_dict().items():
                value.copy_(before[key])
        model.zero_grad(set_to_none=True)
    return None


def latent_candidates(model: nn.Module, x: Tensor) -> list[str]:
    """Return the submodules without parts that run once and put out a row per example, in order."""
    runs: dict[str, list[bool]] = {}
    handles = []

    def hook(name: str) -> Any:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            rows = isinstance(output, Tensor) and output.ndim > 0 and len(output) == len(x)
            runs.setdefault(name, []).append(rows)

        return keep

    for name, part in model.named_modules():
        if name and not any(part.children()):
            handles.append(part.register_forward_hook(hook(name)))
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, rows in runs.items() if rows == [True]]
