"""Pruning of whole neurons and filters: which there are, how much each matters, which go."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from fedguard.layout import ParameterLayout

PruningRule = Literal[
    "attribution-ratio", "activation-ratio", "relative-change", "paper", "random", "none"
]

_WEIGHTED = (nn.Linear, nn.Conv2d)
_SEES_THROUGH = {"flatten", "relu", "relu_", "dropout"}
_TINY = 1e-6


@dataclass(frozen=True)
class PrunableLayer:
    """A hidden layer whose units (neurons, filters) can be silenced one by one.

    Attributes
    ----------
    name : str
        Submodule with the incoming weights.
    units : int
        Number of units.
    norms : tuple of str
        Normalisations behind it with one scale and shift per unit.
    consumer : str or None
        The one layer that reads its units, if nobody else does; its weights on a silenced unit go
        as well. None where the units flow into a residual sum.
    """

    name: str
    units: int
    norms: tuple[str, ...] = ()
    consumer: str | None = None

    @property
    def readout(self) -> str:
        """Submodule whose rectified output is the units' activation."""
        return self.norms[-1] if self.norms else self.name


def prunable_layers(module: nn.Module) -> tuple[PrunableLayer, ...]:
    """Return the linear and convolutional layers of a network, the output layer left out.

    The network is traced to see what follows each layer. One that cannot be traced keeps its
    layers in order of definition, without consumers: its units are silenced on the way in alone.
    """
    parts = dict(module.named_modules())
    try:
        nodes = list(fx.symbolic_trace(module).graph.nodes)
    except Exception:  # tracing runs a user's code with stand-ins and may fail in any way
        names = [name for name, part in parts.items() if isinstance(part, _WEIGHTED)]
        return tuple(PrunableLayer(name, _units(parts[name])) for name in names[:-1])
    layers = [node for node in nodes if _is_weighted(node, parts)]
    return tuple(_follow(node, parts) for node in layers[:-1])


def _is_weighted(node: fx.Node, parts: Mapping[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(parts[str(node.target)], _WEIGHTED)


def _units(part: nn.Module) -> int:
    weight = part.weight
    assert isinstance(weight, Tensor)
    return len(weight)


def _follow(node: fx.Node, parts: Mapping[str, nn.Module]) -> PrunableLayer:
    """Walk from a layer to the layer that reads it, as far as only one reader follows."""
    name = str(node.target)
    units = _units(parts[name])
    norms: list[str] = []
    current = node
    while len(current.users) == 1:
        current = next(iter(current.users))
        if current.op == "call_module":
            part = parts[str(current.target)]
            if isinstance(part, _WEIGHTED):
                return PrunableLayer(name, units, tuple(norms), _sole_reader(current, part))
            scale = getattr(part, "weight", None)
            if isinstance(scale, Tensor):
                if scale.shape != (units,):
                    break
                norms.append(str(current.target))
        elif not _passes(current):
            break
    return PrunableLayer(name, units, tuple(norms))


def _sole_reader(node: fx.Node, part: nn.Module) -> str | None:
    return None if getattr(part, "groups", 1) != 1 else str(node.target)


def _passes(node: fx.Node) -> bool:
    """Return whether a function keeps every unit to itself."""
    target: Any = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return target is not operator.add and name in _SEES_THROUGH


def keep_mask(
    layout: ParameterLayout, silenced: Mapping[PrunableLayer, Sequence[int] | Tensor]
) -> Tensor:
    """Return the (D,) bool mask that is False on every parameter of a silenced unit."""
    mask = torch.ones(layout.size, dtype=torch.bool)
    views = layout.unflatten(mask)
    for layer, units in silenced.items():
        index = torch.as_tensor(units, dtype=torch.long)
        own = [layer.name, *layer.norms]
        for name in (f"{owner}.{kind}" for owner in own for kind in ("weight", "bias")):
            if name in views:
                views[name][index] = False
        if layer.consumer is not None:
            weight = views[f"{layer.consumer}.weight"]
            # A flattened feature map gives each filter a run of columns.
            by_unit = weight.view(len(weight), layer.units, -1)
            by_unit[:, index] = False
    return mask


def magnitudes(layout: ParameterLayout, vector: Tensor, layer: PrunableLayer) -> Tensor:
    """Return each unit's (units,) float64 sum of absolute incoming weights and bias."""
    tensors = layout.unflatten(vector)
    total = tensors[f"{layer.name}.weight"].double().abs().flatten(1).sum(dim=1)
    bias = tensors.get(f"{layer.name}.bias")
    return total if bias is None else total + bias.double().abs()


@dataclass(frozen=True)
class Evidence:
    """What a pruning rule may look at for one layer.

    Attributes
    ----------
    learned, unlearned, change : Tensor
        (units,) magnitudes of the model, of the unlearned model, and of their difference.
    forget, retain : Tensor or None
        (units,) mean contribution or activation on what is forgotten and on the rest.
    """

    learned: Tensor
    unlearned: Tensor
    change: Tensor
    forget: Tensor | None = None
    retain: Tensor | None = None


def select_units(
    rule: PruningRule, evidence: Evidence, beta: float, rng: torch.Generator
) -> Tensor:
    """Return the units of one layer that a rule silences; never all of them.

    ========================  ==============================================================
    ``paper``                 ``I_u > q_beta(I_u)`` and ``I_l <= q_beta(I_l)``
    ``relative-change``       the share beta with the largest ``|theta_u - theta|_1 / I_l``
    ``attribution-ratio``     the share beta with the largest contribution to the labels of what
                              is forgotten relative to that of held-out rows
    ``activation-ratio``      the share beta with the largest activation on what is forgotten
                              relative to the rest
    ``random``                a drawn share beta
    ``none``                  no unit
    ========================  ==============================================================

    Parameters
    ----------
    rule : str
        One of the above.
    evidence : Evidence
        What is known of the layer's units.
    beta : float
        Share of the units, 0 to below 1; at least one unit and never the last one is taken.
    rng : torch.Generator
        Draws for ``random``.
    """
    units = len(evidence.learned)
    wanted = min(max(round(beta * units), 1), units - 1)
    if rule == "none" or beta == 0.0 or units < 2:
        return torch.empty(0, dtype=torch.long)
    if rule == "random":
        return torch.randperm(units, generator=rng)[:wanted].sort().values
    if rule == "paper":
        learned, unlearned = evidence.learned, evidence.unlearned
        high = unlearned > torch.quantile(unlearned, beta)
        low = learned <= torch.quantile(learned, beta)
        return (high & low).nonzero().flatten()
    if rule == "relative-change":
        score = evidence.change / evidence.learned.clamp(min=_TINY)
    else:
        if evidence.forget is None or evidence.retain is None:
            raise ValueError(f"{rule} needs to know both sides")
        score = evidence.forget / (evidence.retain + _TINY)
    return score.topk(wanted).indices.sort().values


@torch.no_grad()
def class_activations(
    module: nn.Module,
    layers: Sequence[PrunableLayer],
    x: Tensor,
    y: Tensor,
    num_classes: int,
    batch: int = 500,
) -> tuple[Tensor, Tensor]:
    """Return sums of rectified activations by class, (C, all units), and class counts, (C,).

    A filter's activation is its mean over the feature map.
    """
    parts, seen = dict(module.named_modules()), dict[str, Tensor]()

    def keeper(name: str) -> Any:
        def keep(_: nn.Module, __: Any, output: Tensor) -> None:
            rectified = output.relu()
            seen[name] = rectified.flatten(2).mean(2) if output.dim() > 2 else rectified

        return keep

    handles = [parts[layer.readout].register_forward_hook(keeper(layer.name)) for layer in layers]
    total = torch.zeros(num_classes, sum(layer.units for layer in layers), dtype=torch.float64)
    module.eval()
    try:
        for rows, labels in zip(torch.split(x, batch), torch.split(y, batch), strict=True):
            module(rows)
            values = torch.cat([seen[layer.name] for layer in layers], dim=1).double().cpu()
            total.index_add_(0, labels.cpu(), values)
    finally:
        for handle in handles:
            handle.remove()
    return total, y.cpu().bincount(minlength=num_classes).double()
