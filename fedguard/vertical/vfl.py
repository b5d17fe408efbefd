"""Vertical learning without incentives: undefended, and with a fixed epsilon."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.vertical.privacy import epsilon_of, noise_multiplier, total_epsilon
from fedguard.vertical.strategy import OWN_PARTY, VerticalRound, VerticalStrategy
from fedguard.vertical.terms import PartyTerms, PrivacyTerms


class Vfl(VerticalStrategy):
    r"""Undefended vertical federated learning: embeddings up, gradients down, nothing else.

    The label holder steps the top model, each party its own. Vepakomma et al., "Split learning for
    health: Distributed deep learning without sharing raw patient data", arXiv 2018, with several
    parties side by side.

    Parameters
    ----------
    arch, embedding, seed
        As for `VerticalStrategy`.

    Notes
    -----
    .. math::
       L = \mathrm{CE}\left( F([f_1(x_1), \ldots, f_P(x_P)]), y \right)

    where :math:`f_i(x_i)` is the embedding that party i of P releases for a batch, F the label
    holder's top model, and y the labels; each side steps its own weights along the gradient of L.
    """


class PrivateVfl(VerticalStrategy):
    r"""Vertical federated learning with clipped, noisy embeddings at one fixed epsilon.

    The noise is that of the analytic Gaussian mechanism. Balle and Wang, "Improving the Gaussian
    Mechanism for Differential Privacy: Analytical Calibration and Optimal Denoising", ICML 2018.

    What (epsilon, delta) holds for: replacing one row of one passive party's features, given its
    bottom model's weights, per release; every row is released once a round, and ``total_epsilon``
    composes all rounds so far. Weights learnt from rows carry information on them that this does
    not bound, and neither do test-time embeddings unless `noise_at_inference`.

    Parameters
    ----------
    epsilon : float
        Of one release, > 0.
    delta : float
        In (0, 1), of one release and of the total.
    clip : float
        L2 bound C of an embedding's row, > 0.
    noise_at_inference : bool
        Whether test embeddings are noisy too. By default they are not, as in the OPUS-VFL authors'
        evaluation, and test rows have no protection.
    **options
        As for `VerticalStrategy`.

    Notes
    -----
    .. math::
       \tilde{h} = \operatorname{clip}(f(x), C) + \mathcal{N}(0, \sigma^2 I), \qquad
       \sigma = 2 C \, m(\varepsilon, \delta)

    .. math::
       m(\varepsilon, \delta) = \min \left\{ m : \Phi\left( \frac{1}{2 m} - \varepsilon m \right)
       - e^{\varepsilon} \Phi\left( -\frac{1}{2 m} - \varepsilon m \right) \le \delta \right\}

    where :math:`f(x)` is a passive party's embedding of a row, C the L2 bound that it is scaled
    down to, and :math:`\Phi` the normal distribution function.
    """

    def __init__(
        self,
        *,
        epsilon: float = 16.0,
        delta: float = 1e-5,
        clip: float = 1.0,
        noise_at_inference: bool = False,
        arch: str = "modern",
        embedding: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(arch=arch, embedding=embedding, seed=seed)
        check_number("epsilon", epsilon, above=0.0)
        check_number("delta", delta, above=0.0, below=1.0)
        check_number("clip", clip, above=0.0)
        self.epsilon = epsilon
        self.privacy = PrivacyTerms(clip, delta, epsilon, epsilon, 0.0, noise_at_inference)
        self.precisions: dict[int, float] = {}

    def terms(self, party: int) -> PartyTerms:
        """Return what the strategy asks of one party; the label holder's own adds no noise."""
        if party == OWN_PARTY:
            return PartyTerms(self.embedding)
        return PartyTerms(self.embedding, self.privacy, initial_epsilon=self.epsilon)

    def settle(self, found: VerticalRound, contributions: Sequence[float]) -> None:
        """Record epsilon per release and in total."""
        self._drop_claims(found)
        super().settle(found, contributions)
        total = found.scores.setdefault("total_epsilon", {})
        delta = self.privacy.delta
        for party, epsilon in found.scores.get("epsilon", {}).items():
            multiplier = noise_multiplier(epsilon, delta)
            self.precisions[party] = self.precisions.get(party, 0.0) + multiplier**-2
            total[party] = epsilon_of(1.0 / math.sqrt(self.precisions[party]), delta)

    def _drop_claims(self, found: VerticalRound) -> None:
        """Forget what passive parties claim beyond the terms: neither paid for nor accounted."""
        low, high = self.privacy.epsilon_min, self.privacy.epsilon_max
        for party in [p for p in self.claims if p != OWN_PARTY]:
            epsilon = self.claims[party].epsilon
            if not low <= epsilon <= high:
                del self.claims[party]
                found.faults.setdefault(party, f"claim of epsilon {epsilon:g} beyond the terms")

    def account(self) -> dict[int, float]:
        """Return each party's total epsilon as the dp-accounting library composes it."""
        delta = self.privacy.delta
        return {
            party: total_epsilon([1.0 / math.sqrt(precision)], delta)
            for party, precision in self.precisions.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Return claims and the account of releases."""
        spent = [[p, v] for p, v in sorted(self.precisions.items())]
        return {**super().state(), "spent": torch.tensor(spent, dtype=torch.float64).view(-1, 2)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        super().load_state(state)
        self.precisions = {int(p): v for p, v in state["spent"].tolist()}
