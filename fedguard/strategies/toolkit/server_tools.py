"""`ServerTools`: what the server lends to a part that needs more than the updates."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from fedguard.errors import ConfigurationError
from fedguard.tasks.base import Task
from fedguard.tasks.classification import Classification


@dataclass(frozen=True)
class ServerTools:
    """What the server lends to a defence that needs more than the updates.

    Attributes
    ----------
    model : nn.Module
        A model of the federation's architecture; a defence may load any vector into it.
    x : Tensor
        (M, ...) auxiliary examples held by the server, normalised as the model expects.
    y : Tensor
        (M,) their labels; a defence that says it uses unlabelled data does not read them.
    latent_layer : str
        Name of the submodule whose output is the latent representation.
    num_classes : int
        Number of classes.
    task : Task
        What is learnt; classification if left out.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    latent_layer: str
    num_classes: int
    task: Task = field(default_factory=Classification)

    @classmethod
    def of(
        cls, model: nn.Module, x: Tensor, y: Tensor, latent_layer: str | None = None
    ) -> ServerTools:
        """Return the tools of a model and labelled examples; classes are counted from `y`."""
        layer = latent_layer or getattr(model, "latent_layer", None)
        if layer is None or layer not in dict(model.named_modules()):
            names = [name for name, _ in model.named_modules() if name]
            raise ConfigurationError("latent_layer", layer, ", ".join(names))
        return cls(model, x, y, str(layer), int(y.max()) + 1)
