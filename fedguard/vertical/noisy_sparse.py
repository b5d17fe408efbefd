"""Noisy, sparse gradients: what the label holder returns is blurred and mostly zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.randomness import generator
from fedguard.vertical.exchange import Released
from fedguard.vertical.label_holder import Step
from fedguard.vertical.strategy import OWN_PARTY, VerticalStrategy


class NoisySparseVfl(VerticalStrategy):
    r"""Vertical learning whose returned gradients are noised and thinned out.

    On each row's gradient g: add N(0, noise^2) to every entry, keep entries above `threshold` in
    size, of these at most the share `keep` of all, picked at random, and zero the rest. The
    ``vfl-sgd`` baseline in the code of Madabushi et al., "OPUS-VFL: Incentivizing Optimal
    Privacy-Utility Tradeoffs in Vertical Federated Learning", arXiv 2025; we apply it to the
    gradient of a row's own loss, where its constants make sense, and not to the batch mean's.

    Parameters
    ----------
    noise : float
        Standard deviation, >= 0.
    threshold : float
        >= 0.
    keep : float
        In (0, 1].
    arch, embedding, seed
        As for `VerticalStrategy`.

    Notes
    -----
    .. math::
       \tilde{g}_d = \begin{cases} g_d + \xi_d & \text{if } d \in K \\ 0 & \text{otherwise}
       \end{cases} \qquad \xi_d \sim \mathcal{N}(0, \sigma^2), \qquad K \subseteq \{ d : |g_d +
       \xi_d| > t \}

    where g are the gradients of all rows of a batch, each of its row's own loss, :math:`\sigma` is
    `noise`, t the `threshold`, and K a random choice of at most the share `keep` of all entries.
    """

    def __init__(
        self,
        *,
        noise: float = 0.05,
        threshold: float = 0.1,
        keep: float = 0.5,
        arch: str = "modern",
        embedding: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(arch=arch, embedding=embedding, seed=seed)
        check_number("noise", noise, at_least=0.0)
        check_number("threshold", threshold, at_least=0.0)
        check_number("keep", keep, above=0.0, at_most=1.0)
        self.noise, self.threshold, self.keep = noise, threshold, keep
        self._steps = 0

    def step(self, released: Released, ids: Tensor) -> tuple[Step, dict[int, Tensor]]:
        """Train on one batch; return blurred gradients to the passive parties."""
        step, gradients = super().step(released, ids)
        self._steps += 1
        for party in gradients:
            if party != OWN_PARTY:
                gradients[party] = self._blurred(gradients[party], party)
        return step, gradients

    def _blurred(self, gradient: Tensor, party: int) -> Tensor:
        stream = generator(self.seed, self._steps, party, "noisy-sparse")
        rows = len(gradient)
        noise = self.noise * torch.randn(gradient.shape, generator=stream)
        noisy = gradient * rows + noise.to(gradient.device)
        order = torch.rand(gradient.shape, generator=stream).to(gradient.device)
        order = torch.where(noisy.abs() > self.threshold, order, torch.inf)
        most = int(self.keep * gradient.numel())
        kept = torch.zeros(gradient.numel(), dtype=torch.bool, device=gradient.device)
        kept[order.flatten().argsort()[:most]] = True
        kept &= torch.isfinite(order).flatten()
        return torch.where(kept.view_as(noisy), noisy / rows, torch.zeros_like(noisy))

    def state(self) -> dict[str, Tensor]:
        """Return claims and the number of steps, which the noise depends on."""
        return {**super().state(), "steps": torch.tensor([self._steps])}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        super().load_state(state)
        self._steps = int(state["steps"])
