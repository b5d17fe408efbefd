"""Channels of a network: which tensors hold them, and networks with masked channels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedguard.training.attention import run_quietly

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm2d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Unit:
    """A layer whose channels can be shut.

    Attributes
    ----------
    layer : str
        Name of the submodule.
    tensors : tuple of str
        Parameters that are multiplied by the mask along their first axis.
    size : int
        Number of channels.
    """

    layer: str
    tensors: tuple[str, ...]
    size: int


def channel_units(model: nn.Module, x: Tensor, *, shift: bool = True) -> list[Unit]:
    """Return the layers of a network whose channels can be shut, in the order in which they run.

    A normalisation layer with scale and shift holds the channels of the convolution (or linear
    layer) before it; any other convolution or linear layer holds its own. The layer that puts out
    the logits has none, nor have frozen layers.

    Parameters
    ----------
    model : nn.Module
        The network; left in the mode it came in.
    x : Tensor
        (B, ...) examples, to see which layers run.
    shift : bool
        Whether a mask shuts the shift of a normalisation layer (and a layer's bias) too, so that
        a mask of 0 makes the channel's output 0; otherwise its scale (or weight) alone.
    """
    names = {module: name for name, module in model.named_modules()}
    ran: list[nn.Module] = []

    def note(module: nn.Module, _: object, __: object) -> None:
        ran.append(module)

    kinds = (*_NORMS, *_LAYERS)
    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    try:
        run_quietly(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    units = []
    for module, after in itertools.pairwise(ran):
        weight, scale = module.weight, after.weight
        if not isinstance(weight, Tensor) or not weight.requires_grad:
            continue
        normalised = isinstance(after, _NORMS) and isinstance(scale, Tensor)
        if isinstance(module, _LAYERS) and normalised and scale.shape == weight.shape[:1]:
            continue
        own = ["weight"] + (["bias"] if shift and module.bias is not None else [])
        prefix = f"{names[module]}." if names[module] else ""
        units.append(Unit(names[module], tuple(prefix + n for n in own), len(weight)))
    return units


def masked_tensors(
    model: nn.Module, units: Sequence[Unit], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the parameters of `units` times their masks; a mask of ones changes no bit.

    Parameters
    ----------
    model : nn.Module
        The network.
    units : sequence of Unit
        Its layers.
    masks : mapping of str to Tensor
        (size,) by layer; layers that are left out stay as they are.
    """
    found = dict(model.named_parameters())
    changed = {}
    for unit in units:
        if unit.layer not in masks:
            continue
        for name in unit.tensors:
            value = found[name].detach()
            changed[name] = value * masks[unit.layer].view(-1, *(1,) * (value.dim() - 1))
    return changed


def run_masked(
    model: nn.Module, units: Sequence[Unit], masks: Mapping[str, Tensor], x: Tensor
) -> Tensor:
    """Return what a network puts out with its channels multiplied by masks; see the gradient.

    The network itself does not change; gradients reach the masks alone.
    """
    still = {name: value.detach() for name, value in model.named_parameters()}
    still.update(masked_tensors(model, units, masks))
    output: Tensor = functional_call(model, still, (x,))
    return output


def shut(model: nn.Module, units: Sequence[Unit], kept: Mapping[str, Tensor]) -> int:
    """Set channels to 0 in place, and return how many are shut.

    Parameters
    ----------
    model : nn.Module
        The network.
    units : sequence of Unit
        Its layers.
    kept : mapping of str to Tensor
        (size,) bool by layer: False where the channel is shut.
    """
    found = dict(model.named_parameters())
    count = 0
    with torch.no_grad():
        for unit in units:
            gone = ~kept[unit.layer].to(found[unit.tensors[0]].device)
            count += int(gone.sum())
            for name in unit.tensors:
                found[name][gone] = 0.0
    return count
