"""VFL-CZOFO: parties learn from two losses, the label holder from gradients."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.vertical.exchange import Released
from fedguard.vertical.label_holder import Step
from fedguard.vertical.strategy import VerticalStrategy
from fedguard.vertical.terms import PartyTerms


class VflCzofo(VerticalStrategy):
    r"""Cascaded hybrid optimisation: zeroth order in the parties, first order at the label holder.

    Per batch, party i releases ``f(theta_i)`` and ``f(theta_i + mu u)`` with u uniform on the unit
    sphere, and gets one number back: the difference of the losses with the one or the other block
    in place. No gradient of an embedding, which would
    show a row's label, ever leaves the label holder. Wang et al., "A Unified Solution for Privacy
    and Communication Efficiency in Vertical Federated Learning", NeurIPS 2023; without its
    compression.

    Parameters
    ----------
    mu : float
        Smoothing radius, > 0.
    arch, embedding, seed
        As for `VerticalStrategy`.

    Notes
    -----
    .. math::
       \theta_i \leftarrow \theta_i - \eta \frac{L_i' - L}{\mu} u_i, \qquad
       L_i' = L\left( \ldots, f_i(x_i; \theta_i + \mu u_i), \ldots \right)

    where :math:`\theta_i` are party i's weights, :math:`u_i` is drawn uniformly from the unit
    sphere, L is the batch's loss, and :math:`\eta` the learning rate.
    """

    released: ClassVar[tuple[str, ...]] = ("embedding", "perturbed")

    def __init__(
        self, *, mu: float = 0.01, arch: str = "modern", embedding: int = 32, seed: int = 0
    ) -> None:
        super().__init__(arch=arch, embedding=embedding, seed=seed)
        check_number("mu", mu, above=0.0)
        self.mu = mu

    def terms(self, party: int) -> PartyTerms:
        """Return what the strategy asks of one party."""
        return PartyTerms(self.embedding, zeroth_order=self.mu)

    def step(self, released: Released, ids: Tensor) -> tuple[Step, dict[int, Tensor]]:
        """Train the top model; return each party's loss difference."""
        holder = self._holder
        plain = {party: one["embedding"] for party, one in released.items()}
        before = holder.loss_of(plain, ids)
        moved = {
            party: holder.loss_of({**plain, party: one["perturbed"]}, ids) - before
            for party, one in released.items()
        }
        told = {p: d if math.isfinite(d) else 0.0 for p, d in moved.items()}
        return holder.step(plain, ids), {p: torch.tensor([d]) for p, d in told.items()}
