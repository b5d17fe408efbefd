"""`DenseProgram`: networks of linear layers and ReLU, their gradient written out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fedguard.clients.batched import Program
from fedguard.clients.grouping import Group
from fedguard.clients.training import ClientTrainer

FLATTENS = {torch.flatten, "flatten"}
RELUS = {torch.relu, functional.relu, "relu"}


@dataclass(frozen=True)
class Layer:
    """One linear layer of a chain: parameter names, and whether a ReLU follows."""

    weight: str
    bias: str | None
    relu: bool


def straight_line(module: nn.Module) -> list[fx.Node] | None:
    """Return a network's steps if each takes what the one before it gave, and nobody else does."""
    try:
        graph = fx.symbolic_trace(module).graph
    except Exception:  # tracing a user's network can fail in any way
        return None
    nodes: list[fx.Node] = []
    previous: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "placeholder" and previous is None:
            previous = node
            continue
        if previous is None or node.args[:1] != (previous,) or len(previous.users) != 1:
            return None
        if node.op == "output":
            break
        nodes.append(node)
        previous = node
    return nodes


def chain_of(module: nn.Module) -> tuple[Layer, ...] | None:
    """Return a network's layers if it is ``flatten, linear, (ReLU, linear) ...``, else None.

    The network is traced with `torch.fx`, so that any class of this form is recognised.
    """
    layers: list[Layer] = []
    nodes = straight_line(module)
    if nodes is None or not all(_append(node, module, layers) for node in nodes):
        return None
    used = [name for layer in layers for name in (layer.weight, layer.bias) if name is not None]
    whole = sorted(used) == sorted(module.state_dict())
    trainable = all(parameter.requires_grad for parameter in module.parameters())
    return tuple(layers) if layers and whole and trainable and not layers[-1].relu else None


def _append(node: fx.Node, module: nn.Module, layers: list[Layer]) -> bool:
    """Take one node of the graph into the chain; return whether it fits."""
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        if type(part) is nn.Linear:
            bias = None if part.bias is None else f"{node.target}.bias"
            layers.append(Layer(f"{node.target}.weight", bias, relu=False))
            return not part._forward_hooks
        if type(part) is nn.Identity:
            return True
        if type(part) is nn.Flatten:
            return not layers and (part.start_dim, part.end_dim) == (1, -1)
        return type(part) is nn.ReLU and _rectify(layers)
    if node.op in ("call_function", "call_method") and node.target in FLATTENS:
        return not layers and (node.args[1:] == (1,) or node.kwargs == {"start_dim": 1})
    if node.op in ("call_function", "call_method") and node.target in RELUS:
        return _rectify(layers)
    return False


def _rectify(layers: list[Layer]) -> bool:
    if not layers:
        return False
    layers[-1] = Layer(layers[-1].weight, layers[-1].bias, relu=True)
    return True


class DenseProgram(Program):
    """Batched SGD of linear layers with ReLU between them, without autograd.

    For a group of clients with weights ``W`` (G, out, in) and inputs ``h`` (G, B, in):

    1. forward: ``z = h W' + b``, ``h = max(z, 0)`` after every layer with a ReLU;
    2. ``d = (softmax(z) - onehot(y)) * weight`` for the last layer, times the slope of the
       training rule's shaping;
    3. backward, layer by layer: ``W += -lr d' h`` in place, then ``d = (d W) * (h > 0)``.

    Gradients are never stored: the product that makes them is added to the weights at once.

    Parameters
    ----------
    trainer : ClientTrainer
        Trains a network of this form; see `chain_of`.
    size : int
        Most clients of a group.
    """

    def __init__(self, trainer: ClientTrainer, size: int) -> None:
        super().__init__(trainer, size)
        chain = self._layers()
        if chain is None:
            raise ValueError(f"the network is no {self.form}")
        self.chain = chain
        self._places = {name: index for index, name in enumerate(self.layout.names)}
        self._views: dict[tuple[bool, str, int], Tensor] = {}
        self._minus_one = torch.full((1, 1, 1), -1.0, device=self.vectors.device)

    form = "chain of linear layers and ReLU"
    """The networks that it trains."""

    def _layers(self) -> tuple[Layer, ...] | None:
        """Return the linear layers, or None where the network has another form."""
        return chain_of(self.trainer.model.module)

    def step(self, group: Group, step: int, active: int) -> Tensor:
        """Take one step; see `Program.step`."""
        with torch.inference_mode():
            labels = group.y[group.rows[:active, step]][..., None]
            weights = group.weights[:active, step, :, None]
            hidden = self._forward(self._inputs(group, step, active), active)
            log_probabilities = torch.log_softmax(hidden.pop(), dim=-1)
            losses = -log_probabilities.gather(2, labels)
            loss = (losses * weights).sum(dim=(1, 2))
            scales = None if group.scales is None else group.scales[:active, step, :, None]
            steeper = self.trainer.rule.shaping.slope(losses, scales)
            if steeper is not None:
                weights = weights * steeper
            slope = log_probabilities.exp_()
            slope.scatter_add_(2, labels, self._minus_one.expand_as(labels))
            self._backward(slope.mul_(weights), hidden, active)
            return loss

    def _inputs(self, group: Group, step: int, active: int) -> Tensor:
        chosen = group.rows[:active, step].reshape(-1)
        flat = group.x.reshape(len(group.x), -1)
        return flat.index_select(0, chosen).view(active, -1, flat.shape[1])

    def _forward(self, x: Tensor, active: int) -> list[Tensor]:
        """Return the input of every layer and, last, the logits."""
        hidden = [x]
        for layer in self.chain:
            weight = self._view(self.vectors, layer.weight, active).transpose(1, 2)
            if layer.bias is None:
                z = torch.bmm(hidden[-1], weight)
            else:
                bias = self._view(self.vectors, layer.bias, active)[:, None]
                z = torch.baddbmm(bias, hidden[-1], weight)
            hidden.append(z.relu_() if layer.relu else z)
        return hidden

    deep = False
    """Whether something trained lies below the first linear layer."""

    def _backward(self, slope: Tensor, hidden: list[Tensor], active: int) -> Tensor:
        """Move the weights; return the slope at the input where it is `deep`, else of no use."""
        for layer in reversed(self.chain):
            h = hidden.pop()
            below = None
            if hidden or self.deep:
                below = self._below(slope, self._view(self.vectors, layer.weight, active))
            if hidden and below is not None and self.chain[len(hidden) - 1].relu:
                below.mul_(h > 0)
            self._update_weight(layer.weight, slope, h, active)
            if layer.bias is not None:
                self._move(layer.bias, slope.sum(dim=1), active)
            if below is not None:
                slope = below
        return slope

    def _below(self, slope: Tensor, weight: Tensor) -> Tensor:
        """Return the slope (G, B, in) at the input of a layer."""
        return torch.bmm(slope, weight)

    def _update_weight(self, name: str, slope: Tensor, h: Tensor, active: int) -> None:
        lr, decay, momentum = self.settings.lr, self.settings.weight_decay, self.settings.momentum
        weight = self._view(self.vectors, name, active)
        if not momentum:
            weight.baddbmm_(slope.transpose(1, 2), h, beta=1.0 - lr * decay, alpha=-lr)
            return
        velocity = self._view(self.momenta, name, active)
        velocity.baddbmm_(slope.transpose(1, 2), h, beta=momentum)
        self._follow(weight, velocity)

    def _move(self, name: str, gradient: Tensor, active: int) -> None:
        """Take one SGD step with one parameter of the first `active` clients."""
        value = self._view(self.vectors, name, active)
        momenta = self._view(self.momenta, name, active) if self.settings.momentum else value
        self._descend(value, momenta, gradient)

    def _descend(self, value: Tensor, velocity: Tensor, gradient: Tensor) -> None:
        """Take one SGD step; `velocity` is touched only where there is momentum."""
        lr, decay, momentum = self.settings.lr, self.settings.weight_decay, self.settings.momentum
        if momentum:
            velocity.mul_(momentum).add_(gradient)
            self._follow(value, velocity)
            return
        if decay:
            value.mul_(1.0 - lr * decay)
        value.add_(gradient, alpha=-lr)

    def _follow(self, value: Tensor, velocity: Tensor) -> None:
        """Add the weight decay to the velocity and move along it."""
        if self.settings.weight_decay:
            velocity.add_(value, alpha=self.settings.weight_decay)
        value.add_(velocity, alpha=-self.settings.lr)

    def _view(self, stack: Tensor, name: str, active: int) -> Tensor:
        """Return one parameter of the first `active` clients, (active, *shape)."""
        key = (stack is self.momenta, name, active)
        found = self._views.get(key)
        if found is None:
            place = self._places[name]
            start, end = self.layout.offsets[place : place + 2]
            found = stack[:active, start:end].view(active, *self.layout.shapes[place])
            self._views[key] = found
        return found
