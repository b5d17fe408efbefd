"""FedPer: the last layers of the network stay with each client."""

from __future__ import annotations

from typing import Any

from torch import nn

from fedguard.training.sgd import Sgd


class FedPer(Sgd):
    r"""SGD on a model whose last layers are every client's own; only the others are averaged.

    Arivazhagan, Aggarwal, Singh and Choudhary, "Federated Learning with Personalization Layers",
    2019. Both parts are trained together, as there.

    Parameters
    ----------
    personal : str or list of str
        Names of the tensors that stay with the client, ``*`` for any part of a name: ``head.*``.
        The last layer that has parameters, if left out.
    **sgd : Any
        Schedule and loss; see `Sgd`.

    Notes
    -----
    .. math::
       w_k^t = (\theta^t, \varphi_k^{t-1}), \qquad
       w_k \leftarrow w_k - \eta \nabla \ell_k(w_k)

    where client k begins round t with the server's :math:`\theta^t` and its own last layers
    :math:`\varphi_k` of the round before; only :math:`\theta` is sent back. The step is that of
    `Sgd`.
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
