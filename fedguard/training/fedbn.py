"""FedBN: BatchNorm layers stay with each client."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedguard.errors import ConfigurationError
from fedguard.training.sgd import Sgd


class FedBn(Sgd):
    r"""SGD on a model whose BatchNorm layers, statistics too, are every client's own.

    Li, Jiang, Zhang, Kamp and Dou, "FedBN: Federated Learning on Non-IID Features via Local Batch
    Normalization", ICLR 2021.

    Parameters
    ----------
    **sgd : Any
        Schedule and loss; see `Sgd`. What `personal` names stays with the client as well.

    Notes
    -----
    .. math::
       w_k^t = (\theta^t, \varphi_k^{t-1}), \qquad
       w_k \leftarrow w_k - \eta \nabla \ell_k(w_k)

    where client k begins round t with the server's :math:`\theta^t` and its own BatchNorm layers
    :math:`\varphi_k` of the round before; only :math:`\theta` is sent back. The step is that of
    `Sgd`.
    """

    def __init__(self, **sgd: Any) -> None:
        super().__init__(**sgd)

    remembers = True

    def private(self, module: nn.Module) -> frozenset[str]:
        """Return the names of all tensors of BatchNorm layers.

        Raises
        ------
        ConfigurationError
            If the network has none.
        """
        found = {
            f"{name}.{own}" if name else own
            for name, part in module.named_modules()
            if isinstance(part, _BatchNorm)
            for own in part.state_dict()
        }
        if not found:
            told = type(module).__name__
            allowed = f"fedper, or a network with BatchNorm: {told} has none"
            raise ConfigurationError("training", "fedbn", allowed)
        return frozenset(found) | super().private(module)
