"""Making a network from its name, and reading its latent layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fedguard import registry
from fedguard.errors import ConfigurationError, nearest
from fedguard.randomness import SERVER, stream_seed


def build(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    *,
    latent_layer: str | None = None,
    sample: Tensor | None = None,
    fault: Callable[[Any], str | None] | None = None,
    **options: Any,
) -> nn.Module:
    """Return a network whose initial weights depend on `seed` alone.

    1. Make the network with PyTorch's generator forked and seeded, so that the global random
       state is left as it was.
    2. Settle its latent layer: `latent_layer`, else the network's own attribute of that name,
       else (a user's class that names none) its last submodule but one.
    3. Run two examples of zeros through it, and check the logits and the latent activations.

    Parameters
    ----------
    name : str
        Registered name or ``package.module:Class``. A user's class is given `input_shape` and
        `num_classes` if its constructor has arguments of these names.
    input_shape : tuple of int
        Shape of one example.
    num_classes : int
        Number of classes C.
    seed : int
        Seed of the run.
    latent_layer : str, optional
        Name of the submodule whose output is the latent representation.
    sample : Tensor, optional
        (2, *input_shape) inputs to try the network on; float32 zeros if left out.
    fault : callable, optional
        Says what is wrong with the network's output on two examples, None if nothing is; an
        output that is not (2, C) if left out.
    **options
        The network's own constructor arguments.

    Returns
    -------
    nn.Module
        The network, in training mode, with an attribute ``latent_layer``.

    Raises
    ------
    ConfigurationError
        On ``model`` if the network does not map (B, *input_shape) to (B, C); on ``latent_layer``
        if there is no such submodule or its output is not one row per example; on
        ``model.OPTION`` for a bad option.
    """
    shapes = {"input_shape": tuple(input_shape), "num_classes": num_classes}
    known = registry.parameters(registry.find("model", name))
    given = {key: value for key, value in shapes.items() if key in known}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, 0, SERVER, "model"))
        model = _create(name, {**given, **options})
        layer = _settle_latent_layer(model, latent_layer)
        tried = torch.zeros(2, *input_shape) if sample is None else sample
        _check_forward(name, model, tried, num_classes, layer, fault)
    setattr(model, "latent_layer", layer)  # noqa: B010 (an assignment here fails the type check)
    return model.train()


def latent_activations(model: nn.Module, x: Tensor, layer: str | None = None) -> Tensor:
    """Return what the latent layer puts out for each example, flattened.

    Parameters
    ----------
    model : nn.Module
        A network; left in the mode (training or evaluation) it came in.
    x : Tensor
        (m, ...) normalised inputs.
    layer : str, optional
        Name of a submodule; the network's ``latent_layer`` if left out.

    Returns
    -------
    Tensor
        (m, p) activations, in evaluation mode and without gradient. Copied, so that a layer that
        works in place afterwards does not change them.

    Raises
    ------
    ConfigurationError
        On ``latent_layer`` if there is no such submodule, if it is not used by the network, or
        if its output is not one row per example.
    """
    name = layer if layer is not None else str(getattr(model, "latent_layer", ""))
    module = _submodule(model, name)
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found.append(output.detach().flatten(1).clone() if output.dim() else output)

    handle = module.register_forward_hook(keep)
    training = [part for part in model.modules() if part.training]
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        handle.remove()
        for part in training:
            part.training = True
    if len(found) != 1 or found[0].dim() != 2 or len(found[0]) != len(x):
        allowed = "a submodule that runs once and puts out one tensor with a row per example"
        raise ConfigurationError("latent_layer", name, allowed)
    return found[0]


def _create(name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        model = registry.create("model", name, **arguments)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise ConfigurationError("model", name, f"a network that can be made ({error})") from error
    if not isinstance(model, nn.Module):
        raise ConfigurationError("model", name, "a class derived from torch.nn.Module")
    return model


def _submodule_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_modules() if name]


def _submodule(model: nn.Module, name: str) -> nn.Module:
    names = _submodule_names(model)
    if name not in names:
        raise ConfigurationError("latent_layer", name, nearest(name, names) + ", ".join(names))
    return model.get_submodule(name)


def _settle_latent_layer(model: nn.Module, asked: str | None) -> str:
    own = asked if asked is not None else getattr(model, "latent_layer", None)
    if own is None:
        leaves = [name for name, part in model.named_modules() if name and not any(part.children())]
        own = leaves[-2] if len(leaves) > 1 else (leaves or [""])[0]
    _submodule(model, str(own))
    return str(own)


def _not_logits(logits: Any, num_classes: int) -> str | None:
    """Return what is wrong with an output that must be (2, C) logits."""
    if isinstance(logits, Tensor) and logits.shape == (2, num_classes):
        return None
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    return f"it returned {shape}"


def _check_forward(
    name: str,
    model: nn.Module,
    zeros: Tensor,
    num_classes: int,
    layer: str,
    fault: Callable[[Any], str | None] | None,
) -> None:
    input_shape = tuple(zeros.shape[1:])
    wanted = f"a network that maps inputs of shape {input_shape} to {num_classes} logits"
    try:
        with torch.no_grad():
            logits = model.eval()(zeros)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError("model", name, f"{wanted} ({reason})") from error
    wrong = fault(logits) if fault is not None else _not_logits(logits, num_classes)
    if wrong is not None:
        raise ConfigurationError("model", name, f"{wanted} ({wrong})")
    latent_activations(model, zeros, layer)
