"""FedPer: the last layers of the network stay with each client."""

from __future__ import annotations

from typing import Any

from torch import nn

from fedguard.training.sgd import Sgd


class FedPer(Sgd):
    """SGD on a model whose last layers are every client's own; only the others are averaged.

    Arivazhagan, Aggarwal, Singh and Choudhary, "Federated Learning with Personalization Layers",
    2019. Both parts are trained together, as there.

    Parameters
    ----------
    personal : str or list of str
        Names of the tensors that stay with the client, ``*`` for any part of a name: ``head.*``.
        The last layer that has parameters, if left out.
    **sgd : Any
        Schedule and loss; see `Sgd`.
    """

    def __init__(self, *, personal: str | tuple[str, ...] = (), **sgd: Any) -> None:
        super().__init__(personal=personal, **sgd)

    remembers = True

    def private(self, module: nn.Module) -> frozenset[str]:
        """Return the configured names, or those of the last layer that has parameters."""
        if self.personal:
            return super().private(module)
        layers = [
            (name, part)
            for name, part in module.named_modules()
            if any(True for _ in part.parameters(recurse=False))
        ]
        name, part = layers[-1]
        head = f"{name}." if name else ""
        return frozenset(head + own for own in part.state_dict())
