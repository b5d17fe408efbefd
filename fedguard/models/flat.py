"""`FlatModel`: a network whose parameters and gradients are views of two flat vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedguard.layout import ParameterLayout


class FlatModel:
    """A module whose trainable parameters and gradients are views of two flat vectors.

    Loading the global model is then one copy, an optimiser step a few vector operations, and a
    client's delta one subtraction, whatever the number of layers.

    Parameters
    ----------
    module : nn.Module
        The model; its parameters are re-pointed, so nobody else should hold on to them.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.layout = ParameterLayout.from_module(module)
        device = next(module.parameters()).device
        trainable = self.layout.num_trainable
        self.vector = torch.empty(trainable, device=device)
        self.gradient = torch.zeros(trainable, device=device)
        self.parameters = [value for value in module.parameters() if value.requires_grad]
        self.buffers = {name: module.state_dict()[name] for name in self._buffer_names()}
        named = dict(module.named_parameters())
        for index, name in enumerate(self.layout.names[: self.layout.num_trainable_tensors]):
            view = self._slice(self.vector, index)
            view.copy_(named[name].detach())
            named[name].data = view
            named[name].grad = self._slice(self.gradient, index)

    def _buffer_names(self) -> tuple[str, ...]:
        return self.layout.names[self.layout.num_trainable_tensors :]

    def _slice(self, vector: Tensor, index: int) -> Tensor:
        start, end = self.layout.offsets[index : index + 2]
        return vector[start:end].view(self.layout.shapes[index])

    def whole_vector(self) -> Tensor:
        """Return a (D,) copy of parameters and buffers."""
        whole = torch.zeros(self.layout.size, device=self.vector.device)
        found = torch.empty_like(whole)
        self.delta_from(whole, found)
        return found

    def load(self, vector: Tensor) -> None:
        """Copy a (D,) model vector into parameters and buffers."""
        self.vector.copy_(vector[: self.layout.num_trainable])
        for offset, name in enumerate(self._buffer_names()):
            index = self.layout.num_trainable_tensors + offset
            value = self._slice(vector, index)
            target = self.buffers[name]
            target.copy_(value if target.is_floating_point() else value.round())

    def delta_from(self, vector: Tensor, out: Tensor) -> None:
        """Write model minus `vector` into `out`, both (D,)."""
        trainable = self.layout.num_trainable
        torch.sub(self.vector, vector[:trainable], out=out[:trainable])
        for offset, name in enumerate(self._buffer_names()):
            index = self.layout.num_trainable_tensors + offset
            # Truth values cannot be subtracted as they are.
            value = self.buffers[name].to(out.dtype)
            self._slice(out, index).copy_(value - self._slice(vector, index))

    def views(self, vector: Tensor) -> list[Tensor]:
        """Return the trainable tensors of a (D,) vector as views, in parameter order."""
        return [self._slice(vector, i) for i in range(self.layout.num_trainable_tensors)]
