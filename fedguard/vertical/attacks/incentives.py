"""Parties that want tokens they have not earned."""

from __future__ import annotations

from typing import ClassVar

import torch

from fedguard.errors import check_number
from fedguard.randomness import generator
from fedguard.vertical.attacks.base import VerticalAttack
from fedguard.vertical.data import PartyView
from fedguard.vertical.terms import Claim, SeenParty


class FreeRiderParty(VerticalAttack):
    r"""A party without data: its features are random numbers, drawn once.

    It follows the protocol in everything else and hopes to be paid. The idea of free riders is
    Lin et al., "Free-riders in Federated Learning: Attacks and Defenses", arXiv 2019; features of
    pure noise are our vertical reading.

    Parameters
    ----------
    parties
        As for `VerticalAttack`.

    Notes
    -----
    .. math::
       \tilde{x}_r \sim \mathcal{N}(0, I)

    in place of the features of every row r, drawn once.
    """

    def views(self, views: list[PartyView], attackers: tuple[int, ...]) -> list[PartyView]:
        """Replace the attackers' features by noise of the same shape."""
        changed = list(views)
        for party in attackers:
            stream = generator(self.seed, 0, party, "free-rider")
            parts = [
                torch.randn(x.shape, generator=stream)
                for x in (views[party].x_train, views[party].x_test)
            ]
            changed[party] = PartyView(*parts)
        return changed


class ColludingDuplicates(VerticalAttack):
    """Two parties hold the same features, so that neither is missed when it is left out.

    The later one copies the first one's features. Leave-one-out contribution then says that both
    are worth nothing, although together they are worth what one was: the blind spot that a Shapley
    value does not have. Ours, after Ghorbani and Zou, "Data Shapley: Equitable Valuation of Data
    for Machine Learning", ICML 2019.

    Parameters
    ----------
    parties
        As for `VerticalAttack`, two or more.

    Notes
    -----
    .. math::
       x_j = x_i

    where :math:`x_i` are the first attacker's features and :math:`x_j` those of every other one.
    """

    least: ClassVar[int] = 2

    def views(self, views: list[PartyView], attackers: tuple[int, ...]) -> list[PartyView]:
        """Give every attacker the first attacker's features."""
        changed = list(views)
        for party in attackers[1:]:
            changed[party] = views[attackers[0]]
        return changed


class LyingNoise(VerticalAttack):
    r"""A party that claims more noise than it adds, for the privacy pay.

    It claims the smallest epsilon allowed, adds `factor` times the noise of its true one, and so
    is paid twice over: for privacy it does not provide, and for the contribution that noise would
    have cost. Ours; the payment on trust is that of Madabushi et al., "OPUS-VFL: Incentivizing
    Optimal Privacy-Utility Tradeoffs in Vertical Federated Learning", arXiv 2025.

    Parameters
    ----------
    factor : float
        What its noise is multiplied by, 0 to 1.
    parties
        As for `VerticalAttack`.

    Notes
    -----
    .. math::
       \tilde{\varepsilon} = \varepsilon_{\min}, \qquad
       \tilde{h} = \operatorname{clip}(h, C) + q \, \sigma(\varepsilon) z

    where :math:`\tilde{\varepsilon}` is what the party claims, :math:`\varepsilon` its true
    epsilon, :math:`\sigma` the noise that belongs to it, h its embedding, z standard normal, and q
    the `factor`.
    """

    def __init__(self, *, factor: float = 0.0, parties: tuple[int, ...] | None = None) -> None:
        super().__init__(parties=parties)
        check_number("factor", factor, at_least=0.0, at_most=1.0)
        self.noise_factor = factor

    def claim(self, party: SeenParty, honest: Claim) -> Claim:
        """Claim the smallest epsilon."""
        privacy = party.terms.privacy
        if privacy is None:
            return honest
        return Claim(privacy.epsilon_min, honest.cost_ratio)


class LyingCost(VerticalAttack):
    r"""A party that claims `factor` times the resources that it spends.

    The score multiplies contribution by the fifth root of the claimed cost ratio, and auctions
    multiply the bid by it. Ours; the score
    is that of Madabushi et al., "OPUS-VFL: Incentivizing Optimal Privacy-Utility Tradeoffs in
    Vertical Federated Learning", arXiv 2025.

    Parameters
    ----------
    factor : float
        Above 0; below 1 the party claims to cost less than it does.
    parties
        As for `VerticalAttack`.

    Notes
    -----
    .. math::
       \tilde{c} = q \, c

    where c is the party's true cost ratio, :math:`\tilde{c}` what it claims, and q the `factor`.
    """

    def __init__(self, *, factor: float = 32.0, parties: tuple[int, ...] | None = None) -> None:
        super().__init__(parties=parties)
        check_number("factor", factor, above=0.0)
        self.factor = factor

    def claim(self, party: SeenParty, honest: Claim) -> Claim:
        """Claim another cost."""
        return Claim(honest.epsilon, honest.cost_ratio * self.factor)
