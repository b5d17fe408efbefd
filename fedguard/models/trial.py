"""Trying a network before the first round: what it returns, and whether it trains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fedguard.errors import ConfigurationError

Fault = Callable[[Any], str | None]
"""Says what is wrong with a network's output on the examples; None if nothing is."""


def try_network(
    name: str,
    model: nn.Module,
    x: Tensor,
    num_classes: int,
    fault: Fault | None = None,
    *,
    training: bool = True,
) -> None:
    """Run examples through a network, as it is evaluated and as it is trained.

    Its parameters and buffers are afterwards what they were. Floats of another size than 32 bits
    become float32, which is what clients and server exchange.

    Parameters
    ----------
    name : str
        The network's name, for errors.
    model : nn.Module
        The network; left in training mode.
    x : Tensor
        (B, ...) examples.
    num_classes : int
        Number of classes C.
    fault : callable, optional
        Says what is wrong with an output; one that is not (B, C) if left out.
    training : bool
        Whether to run it as it is trained, and descend once.

    Raises
    ------
    ConfigurationError
        On ``model`` if it fails, returns something else, or has nothing to train.
    """
    wanted = f"a network that maps inputs of shape {tuple(x.shape[1:])} to {num_classes} logits"

    def not_logits(output: Any) -> str | None:
        if isinstance(output, Tensor) and output.shape == (len(x), num_classes):
            return None
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        return f"it returned {shape}"

    judge = fault or not_logits
    model.float()
    try:
        with torch.no_grad():
            wrong = judge(model.eval()(x))
        if wrong is None and training:
            wrong = _try_training(model, x, judge)
    except Exception as error:  # a user's network may raise anything
        raise ConfigurationError("model", name, f"{wanted} ({_reason(error)})") from error
    if wrong is not None:
        raise ConfigurationError("model", name, f"{wanted} ({wrong})")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    plain = isinstance(error, RuntimeError | ValueError | TypeError | IndexError)
    return text if text and plain else f"{type(error).__name__}: {text}"


def _try_training(model: nn.Module, x: Tensor, judge: Fault) -> str | None:
    """Return what is wrong with the network as it is trained; None if nothing is."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return "it has no parameter to train"
    before = {key: value.detach().clone() for key, value in model.state_dict().items()}
    try:
        output = model.train()(x)
        wrong = judge(output)
        if wrong is not None:
            return f"in training {wrong}"
        if isinstance(output, Tensor):
            if not output.requires_grad:
                return "its output does not depend on what is trained"
            torch.autograd.backward(output.sum())
    finally:
        with torch.no_grad():
            for key, value in model.state_dict().items():
                value.copy_(before[key])
        model.zero_grad(set_to_none=True)
    return None


def draws_random_numbers(model: nn.Module, x: Tensor) -> bool:
    """Return whether a forward pass in training mode draws from PyTorch's random state."""
    device = next(model.parameters()).device
    twin = copy.deepcopy(model).train()
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad():
        before = torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in cuda)
        twin(x.to(device))
        after = torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in cuda)
    return not all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def mixes_rows(model: nn.Module, x: Tensor) -> bool:
    """Return whether a row's output in training hangs on the other rows of its batch.

    Parameters
    ----------
    model : nn.Module
        Any network; a copy of it is tried.
    x : Tensor
        (4, ...) examples; two of them are run alone and among the four.
    """
    twin = copy.deepcopy(model).train()
    with torch.no_grad():
        alone, among = twin(x[:2]), twin(x)
    return not torch.allclose(alone, among[: len(alone)], atol=1e-5, rtol=1e-4)


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
