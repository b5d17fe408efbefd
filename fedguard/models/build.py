"""Making a network from its name, and reading its latent layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fedguard import registry
from fedguard.errors import ConfigurationError, nearest
from fedguard.models.trial import latent_candidates, try_network
from fedguard.randomness import SERVER, stream_seed


def build(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    /,
    *,
    latent_layer: str | None = None,
    sample: Tensor | None = None,
    fault: Callable[[Any], str | None] | None = None,
    **options: Any,
) -> nn.Module:
    """Return a network whose initial weights depend on `seed` alone.

    1. Make the network with PyTorch's generator forked and seeded, so that the global random
       state is left as it was.
    2. Run two examples through it, as it is evaluated and (one that is not fedguard's own) as it
       is trained, and check what it returns.
    3. Settle its latent layer: `latent_layer`, else the network's own attribute of that name,
       else (a user's class that names none) its last submodule but one, or of those that run
       once with a row per example the last but one; None where no submodule will do.

    Parameters
    ----------
    name : str
        Registered name or ``package.module:Class``. A user's class is given `input_shape` and
        `num_classes` if its constructor has arguments of these names; a function that takes any
        keyword, such as ``torchvision.models:resnet18``, is given `num_classes`.
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
        The network, in training mode and float32, with an attribute ``latent_layer``.

    Raises
    ------
    ConfigurationError
        On ``model`` if the network does not map (B, *input_shape) to (B, C) or does not train;
        on ``latent_layer`` if the submodule that was asked for is not there or its output is not
        one row per example; on ``model.OPTION`` for a bad option.
    """
    shapes = {"input_shape": tuple(input_shape), "num_classes": num_classes}
    part = registry.find("model", name)
    known = registry.parameters(part)
    given = {key: value for key, value in shapes.items() if key in known}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, 0, SERVER, "model"))
        if "num_classes" not in known and _takes_any_keyword(part):
            model = _call(name, part, {**given, "num_classes": num_classes, **options})
        else:
            model = _create(name, {**given, **options})
        tried = torch.zeros(2, *input_shape) if sample is None else sample
        users = name not in registry.own_parts("model")
        try_network(name, model, tried, num_classes, fault, training=users)
        layer = _settle_latent_layer(model, tried, latent_layer)
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
    name = layer if layer is not None else getattr(model, "latent_layer", None)
    if not isinstance(name, str):
        names = ", ".join(_submodule_names(model))
        allowed = f"one of {names}; none was found by itself" if names else "one with submodules"
        raise ConfigurationError("latent_layer", None, allowed)
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


def _takes_any_keyword(part: Any) -> bool:
    """Return whether a function, no class, takes keywords that its signature does not name."""
    if inspect.isclass(part):
        return False
    kinds = {parameter.kind for parameter in inspect.signature(part).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds


def _call(name: str, part: Any, arguments: dict[str, Any]) -> nn.Module:
    known = registry.parameters(part)
    named = {key: value for key, value in arguments.items() if key in known}
    converted = registry.check_arguments("model", part, named)
    try:
        model = part(**{**arguments, **converted})
    except ConfigurationError:
        raise
    except Exception as error:  # a third party's factory may raise anything
        raise _not_made(name, error) from error
    return _checked(name, model)


def _create(name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        model = registry.create("model", name, **arguments)
    except ConfigurationError:
        raise
    except Exception as error:  # a user's constructor may raise anything
        raise _not_made(name, error) from error
    return _checked(name, model)


def _not_made(name: str, error: Exception) -> ConfigurationError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfigurationError("model", name, f"a network that can be made ({reason})")


def _checked(name: str, model: Any) -> nn.Module:
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


def _settle_latent_layer(model: nn.Module, x: Tensor, asked: str | None) -> str | None:
    """Return the layer that was asked for, the network's own, or one that will do, if any."""
    if asked is not None:
        _submodule(model, asked)
        latent_activations(model, x, asked)
        return asked
    own = getattr(model, "latent_layer", None)
    leaves = [name for name, part in model.named_modules() if name and not any(part.children())]
    for layer in (own, *leaves[-2:][:1]):
        if isinstance(layer, str) and _runs_as_latent(model, x, layer):
            return layer
    usable = latent_candidates(model, x)
    return next((name for name in usable[-2:] if _runs_as_latent(model, x, name)), None)


def _runs_as_latent(model: nn.Module, x: Tensor, layer: str) -> bool:
    try:
        latent_activations(model, x, layer)
    except ConfigurationError:
        return False
    return True
