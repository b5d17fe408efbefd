"""Where a network looks: outputs of its layers, its stages, and the attention of their maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional


def run_quietly(model: nn.Module, x: Tensor) -> None:
    """Run examples through a network in evaluation mode, and put its modes back."""
    training = [part for part in model.modules() if part.training]
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for part in training:
            part.training = True


def feature_stages(model: nn.Module, x: Tensor, most: int = 3) -> list[str]:
    """Return submodules that put out a network's stages: the last feature maps of each size.

    Parameters
    ----------
    model : nn.Module
        The network; left in the mode it came in.
    x : Tensor
        (B, ...) examples, to see the shapes.
    most : int
        Most stages, counted from the output; at least 1.

    Returns
    -------
    list of str
        Names in the order in which they run. A network without maps of at least 2 x 2 positions
        has its last hidden vector as its one stage.
    """
    names = {module: name for name, module in model.named_modules() if name}
    maps: dict[tuple[int, ...], str] = {}
    vectors: list[str] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if not isinstance(output, Tensor):
            return
        if output.dim() == 4 and min(output.shape[2:]) > 1:
            size = tuple(output.shape[2:])
            maps.pop(size, None)
            maps[size] = names[module]
        elif output.dim() == 2:
            vectors.append(names[module])

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        run_quietly(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    if maps:
        return list(maps.values())[-most:]
    return vectors[-2:-1]


@contextmanager
def outputs_of(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Give a mapping into which every run of the network writes what layers put out, by name.

    Copies, with gradient, so that a layer that works in place afterwards does not change them.
    """
    found: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(_: nn.Module, __: object, output: Tensor) -> None:
            found[name] = output.clone()

        return keep

    hooks = [model.get_submodule(name).register_forward_hook(keeper(name)) for name in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def layer_outputs(model: nn.Module, layers: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """Return what layers put out in evaluation mode, without gradient, by name."""
    with outputs_of(model, layers) as found:
        run_quietly(model, x)
    return found


def attention(features: Tensor) -> Tensor:
    """Return the (B, positions) attention of (B, C, H, W) features, each row of length 1.

    The positions of (B, F) features are their entries.
    """
    maps = features.square().sum(dim=1) if features.dim() == 4 else features.square()
    flat = maps.flatten(1)
    length: Tensor = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return flat / (length + 1e-6)


def attention_maps(model: nn.Module, x: Tensor) -> Tensor | None:
    """Return where a network looks on images: (B, H, W), 1 at the largest; None without maps.

    The attention of the last stage that has feature maps of at least 2 x 2 positions; a picture of
    which nothing is seen, or that ends in NaN, is 0 everywhere.
    """
    stages = feature_stages(model, x, 1)
    if not stages:
        return None
    found = layer_outputs(model, stages, x)[stages[0]]
    if found.dim() != 4:
        return None
    maps = torch.nan_to_num(found.float().square().sum(dim=1), 0.0, 0.0, 0.0)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)


def attention_gap(seen: Mapping[str, Tensor], shown: Mapping[str, Tensor]) -> Tensor:
    """Return the mean squared difference of two networks' attention, summed over stages.

    Parameters
    ----------
    seen, shown : mapping of str to Tensor
        Features of the same rows by stage; those of `shown` get no gradient.
    """
    terms = [
        functional.mse_loss(attention(seen[stage]), attention(features.detach()))
        for stage, features in shown.items()
    ]
    return torch.stack(terms).sum()
