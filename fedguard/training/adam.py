"""Adam: adaptive moments in local training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from fedguard.errors import check_number
from fedguard.training.base import SETTING_KEYS, Local
from fedguard.training.sgd import Sgd


class Adam(Sgd):
    r"""Adam with decoupled weight decay.

    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015; the decay as in
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019. The configuration's
    ``momentum`` is not used.

    Parameters
    ----------
    beta1, beta2 : float
        Decay of the two moments, 0 to below 1.
    eps : float
        Added to the root of the second moment, above 0.
    keep : bool
        Whether a client keeps its moments from round to round; they start at 0 in each otherwise.
    **sgd : Any
        Schedule and loss; see `Sgd`.

    Notes
    -----
    .. math::
       m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
       v \leftarrow \beta_2 v + (1 - \beta_2) g^2

    .. math::
       w \leftarrow (1 - \eta \lambda) w - \eta \frac{m / (1 - \beta_1^t)}
       {\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    in step t, where g is the batch's gradient, w the model, :math:`\eta` the learning rate and
    :math:`\lambda` the weight decay.
    """

    reads: ClassVar[frozenset[str]] = frozenset(SETTING_KEYS) - {"momentum"}

    def __init__(
        self,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        keep: bool = False,
        **sgd: Any,
    ) -> None:
        super().__init__(**sgd)
        check_number("beta1", beta1, at_least=0.0, below=1.0)
        check_number("beta2", beta2, at_least=0.0, below=1.0)
        check_number("eps", eps, above=0.0)
        self.beta1, self.beta2, self.eps, self.keep = beta1, beta2, eps, keep

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        """Whether clients keep their moments, or a part of the model."""
        return self.keep or bool(self.personal)

    def plain(self, config: Mapping[str, Any]) -> bool:
        """Return False: no batched executor knows Adam."""
        return False

    def begin(self, local: Local) -> None:
        """Start from the moments that the client kept, or from 0."""
        if self.keep and "adam.m" in local.memory:
            return
        zeros = torch.zeros_like(local.vector)
        local.memory.update(
            {"adam.m": zeros, "adam.v": zeros.clone(), "adam.steps": torch.zeros(1)}
        )

    def step(self, local: Local, update: Callable[[], None]) -> None:
        """Take one step of Adam."""
        memory, gradient, settings = local.memory, local.gradient, local.settings
        m, v = memory["adam.m"], memory["adam.v"]
        memory["adam.steps"] += 1
        count = float(memory["adam.steps"])
        m.mul_(self.beta1).add_(gradient, alpha=1.0 - self.beta1)
        v.mul_(self.beta2).addcmul_(gradient, gradient, value=1.0 - self.beta2)
        scale = (v / (1.0 - self.beta2**count)).sqrt_().add_(self.eps)
        if settings.weight_decay:
            local.vector.mul_(1.0 - settings.lr * settings.weight_decay)
        local.vector.addcdiv_(m, scale, value=-settings.lr / (1.0 - self.beta1**count))

    def end(self, local: Local) -> None:
        """Drop the moments unless they are kept."""
        if not self.keep:
            local.memory.clear()
