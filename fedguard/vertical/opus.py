"""OPUS-VFL: parties are paid for contribution, privacy and resources, and tune their own noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from scipy.special import chdtr
from torch import Tensor

from fedguard.errors import ConfigurationError, check_choice, check_number
from fedguard.randomness import generator
from fedguard.vertical.contribution import LOO_MODES
from fedguard.vertical.exchange import Released
from fedguard.vertical.label_holder import LabelHolder, Step
from fedguard.vertical.privacy import noise_multiplier
from fedguard.vertical.rewards import (
    RewardRule,
    contribution_over_cost,
    gini,
    largest_remainder,
)
from fedguard.vertical.schedule import BatchSchedule
from fedguard.vertical.strategy import OWN_PARTY, VerticalRound
from fedguard.vertical.terms import PartyTerms, PrivacyTerms
from fedguard.vertical.vfl import PrivateVfl

REWARDS = ("score-share", "contribution-over-cost")
COST_CLAIMS = ("tariff", "believed")
_FALSE_ALARM = 1e-9
_MEMORY = 3


class OpusVfl(PrivateVfl):
    r"""A reading of OPUS-VFL: incentives and adaptive privacy in vertical federated learning.

    Per round, for every passive party i (the label holder's own party 0 adds no noise and is not
    paid):

    1. It releases its embedding, clipped and with the noise of its epsilon.
    2. Contribution C_i: percent by which the loss grows without it, mean over batches, floored at
       0; from leave-one-out heads that see the released blocks with block i zeroed.
    3. Score R_i: pay for contribution and, capped, for privacy.
    4. Tokens tau_i of the budget in proportion to the score.
    5. Utility U_i: tokens minus cost. From round `warmup` on, a party whose mean utility over its
       last 3 rounds is negative leaves.
    6. Each party moves its epsilon along dR_i / d epsilon_i, by at most `step` of the limits'
       distance, within the limits.

    Madabushi et al., "OPUS-VFL: Incentivizing Optimal Privacy-Utility Tradeoffs in Vertical
    Federated Learning", arXiv 2025. The body of the paper is not public to us; this reads its
    abstract and the authors' code, and departs from the code where that pays more than the
    budget, pays with the wrong sign, clips nothing, uses one party's noise for all, steps along
    a gradient with a unit error, or keeps only the last batch's gradient. Our own: the analytic
    calibration, the total account, the cap on privacy pay, the test of claimed noise, and the
    tariff for claimed cost.

    The gradient in step 6 is the party's own: only it knows z_i. What the label holder knows of
    noise is a claim, so (`verify_noise`) it tests that a party's released blocks vary at least as
    much as the claimed noise alone would (chi-square, one-sided); who fails is not paid.
    The test bites where E sigma^2 is above C^2.

    A party's cost is a claim as well, and nothing that arrives shows it: all parties send as many
    messages of the same size, and time is made by waiting. So (``cost_claims="tariff"``) a claim
    counts no more than the largest of the `cost_ratios` that were agreed, whoever they belong to.
    Honest claims are paid as before, and no lie about cost multiplies a score by more than
    ``(max c / c_i)^(1/5)``: nothing where all ratios are equal. No rule that pays honest parties
    by cost can promise less, since whoever costs little can claim to be one that costs much.

    Parameters
    ----------
    reward : str
        ``score-share`` or ``contribution-over-cost``.
    loo : str
        ``heads`` (cheap heads over the top model's first layer), ``shared`` (the top model
        itself, nothing trained) or ``copies`` (a whole top model each, as the authors do).
    budget : int, optional
        Tokens tau per round; 100 per paid party if left out.
    alpha, beta : float
        Weights of contribution and privacy, >= 0.
    gamma : float
        Weight of cost in ``contribution-over-cost``, >= 0.
    privacy_cap : float or None
        Most privacy pay relative to contribution pay.
    cost_ratios : tuple of float
        c_i > 0 of parties 1, 2, ...; repeated if too few.
    cost_claims : str
        ``tariff`` or, as the authors' code, ``believed``.
    resource_costs : tuple of float
        B_i >= 0 in tokens per round, likewise.
    epsilon_min, epsilon_max : float
        Limits of a release's epsilon, 0 < min <= max.
    initial_epsilon : float, optional
        Drawn uniformly within the limits, per party, if left out.
    step : float
        Largest move of epsilon per round relative to the limits' distance, 0 to 1.
    warmup : int
        Rounds in which nobody leaves.
    verify_noise : bool
        Whether claimed noise is tested.
    gradient_noise : float
        Not in the paper: Gaussian noise on the returned gradients, as a multiple of the batch's
        largest row norm; protects labels. 0 for none.
    delta, clip, noise_at_inference, arch, embedding, seed
        As for `PrivateVfl`.

    Notes
    -----
    .. math::
       \tilde{h}_i = \operatorname{clip}(f_i(x_i), C) + S \, m(\varepsilon_i, \delta) \, z_i, \qquad
       S = 2 C, \quad z_i \sim \mathcal{N}(0, I)

    .. math::
       R_i = \alpha C_i c_i^{1/5} + \min\left( \frac{\beta S}{\varepsilon_i}, \kappa \alpha C_i
       c_i^{1/5} \right), \qquad C_i = \max\left( 0, \; 100 \frac{L_{-i} - L}{\max(L, 0.01)}
       \right)

    .. math::
       \tau_i = \tau \frac{R_i}{\sum_j R_j}, \qquad U_i = \tau_i - B_i, \qquad
       c_i = \min(\tilde{c}_i, \max_j c^*_j)

    where :math:`f_i(x_i)` is party i's embedding, C the clipping bound, m the calibrated noise, L
    the loss, :math:`L_{-i}` that without block i, :math:`\tilde{c}_i` the cost ratio that the party
    claims, :math:`c^*` the `cost_ratios` (without the minimum where claims are ``believed``),
    :math:`\kappa` the `privacy_cap`, :math:`\tau` the budget (in whole tokens by largest remainder)
    and :math:`B_i` the party's cost; with ``contribution-over-cost``,
    :math:`R_i = C_i / (C_i + \gamma B_i)`.
    """

    def __init__(
        self,
        *,
        reward: str = "score-share",
        loo: str = "heads",
        budget: int | None = None,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        privacy_cap: float | None = 0.5,
        cost_ratios: tuple[float, ...] = (1.0,),
        cost_claims: str = "tariff",
        resource_costs: tuple[float, ...] = (5.0,),
        epsilon_min: float = 8.0,
        epsilon_max: float = 32.0,
        initial_epsilon: float | None = None,
        step: float = 0.05,
        warmup: int = 5,
        verify_noise: bool = True,
        gradient_noise: float = 0.0,
        delta: float = 1e-5,
        clip: float = 1.0,
        noise_at_inference: bool = False,
        arch: str = "modern",
        embedding: int = 32,
        seed: int = 0,
    ) -> None:
        check_number("epsilon_min", epsilon_min, above=0.0)
        check_number("epsilon_max", epsilon_max, at_least=epsilon_min)
        super().__init__(
            epsilon=epsilon_max,
            delta=delta,
            clip=clip,
            noise_at_inference=noise_at_inference,
            arch=arch,
            embedding=embedding,
            seed=seed,
        )
        check_choice("reward", reward, REWARDS)
        check_choice("loo", loo, LOO_MODES)
        check_choice("cost_claims", cost_claims, COST_CLAIMS)
        for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            check_number(name, value, at_least=0.0)
        check_number("step", step, at_least=0.0, at_most=1.0)
        check_number("warmup", warmup, at_least=0)
        check_number("gradient_noise", gradient_noise, at_least=0.0)
        if privacy_cap is not None:
            check_number("privacy_cap", privacy_cap, at_least=0.0)
        if budget is not None:
            check_number("budget", budget, at_least=1)
        if initial_epsilon is not None:
            check_number("initial_epsilon", initial_epsilon, at_least=epsilon_min)
            check_number("initial_epsilon", initial_epsilon, at_most=epsilon_max)
        if not cost_ratios or min(cost_ratios) <= 0.0:
            raise ConfigurationError("cost_ratios", cost_ratios, "one or more numbers > 0")
        if not resource_costs or min(resource_costs) < 0.0:
            raise ConfigurationError("resource_costs", resource_costs, "one or more numbers >= 0")
        self.privacy = PrivacyTerms(clip, delta, epsilon_min, epsilon_max, step, noise_at_inference)
        self.rule = RewardRule(alpha, beta, self.privacy.sensitivity, privacy_cap)
        self.reward, self.loo, self.gamma = reward, loo, gamma
        self.fixed_budget, self.warmup = budget, warmup
        self.cost_ratios, self.resource_costs = cost_ratios, resource_costs
        self.cost_claims = cost_claims
        self.initial_epsilon = initial_epsilon
        self.verify_noise, self.gradient_noise = verify_noise, gradient_noise
        self.utilities: dict[int, list[float]] = {}
        self._energy: dict[int, tuple[float, int]] = {}
        self._steps = 0

    @property
    def budget(self) -> int:
        """Tokens of a round."""
        return 100 * (self.parties - 1) if self.fixed_budget is None else self.fixed_budget

    def cost(self, party: int) -> float:
        """Return B_i, the tokens that a round costs a passive party."""
        return self.resource_costs[(party - 1) % len(self.resource_costs)]

    def terms(self, party: int) -> PartyTerms:
        """Return what the strategy asks of one party."""
        if party == OWN_PARTY:
            return PartyTerms(self.embedding)
        first = self.initial_epsilon
        if first is None:
            stream = generator(self.seed, 0, party, "initial-epsilon")
            low, high = self.privacy.epsilon_min, self.privacy.epsilon_max
            first = low + (high - low) * float(torch.rand((), generator=stream))
        return PartyTerms(
            embedding=self.embedding,
            privacy=self.privacy,
            reward=self.rule if self.reward == "score-share" else None,
            cost_ratio=self.cost_ratios[(party - 1) % len(self.cost_ratios)],
            initial_epsilon=first,
        )

    def bind(self, holder: LabelHolder, schedule: BatchSchedule, parties: int) -> None:
        """Take labels, top model and schedule; copy leave-one-out heads from the top model."""
        super().bind(holder, schedule, parties)
        holder.measure_contributions(self.loo)

    # --- a batch ------------------------------------------------------------------------------

    def observe(self, blocks: Mapping[int, Tensor]) -> None:
        """Sum up each block's variation about its mean, for the test of claimed noise."""
        if not self.verify_noise:
            return
        passive = [party for party in blocks if party != OWN_PARTY]
        if not passive:
            return
        stacked = torch.stack([blocks[party] for party in passive])
        centred = stacked - stacked.mean(dim=1, keepdim=True)
        energies = torch.linalg.vector_norm(centred, dim=(1, 2)).square().tolist()
        more = (stacked.shape[1] - 1) * stacked.shape[2]
        for party, value in zip(passive, energies, strict=True):
            energy, freedom = self._energy.get(party, (0.0, 0))
            self._energy[party] = (energy + value, freedom + more)

    def step(self, released: Released, ids: Tensor) -> tuple[Step, dict[int, Tensor]]:
        """Train on one batch; with `gradient_noise`, return noisy gradients to passive parties."""
        step, gradients = super().step(released, ids)
        self._steps += 1
        if self.gradient_noise:
            for party in gradients:
                if party != OWN_PARTY:
                    gradients[party] = self._blurred(party, gradients[party])
        return step, gradients

    def _blurred(self, party: int, gradient: Tensor) -> Tensor:
        stream = generator(self.seed, self._steps, party, "gradient-noise")
        noise = torch.randn(gradient.shape, generator=stream).to(gradient.device)
        scale = self.gradient_noise * gradient.norm(dim=1).max() / gradient.shape[1] ** 0.5
        blurred: Tensor = gradient + scale * noise
        return blurred

    # --- the end of a round -------------------------------------------------------------------

    def settle(self, found: VerticalRound, contributions: Sequence[float]) -> None:
        """Pay the round's budget and decide who leaves."""
        super().settle(found, contributions)
        worked = [p for p in found.asked if found.fault_batches.get(p, 0) < found.batches]
        paid = [p for p in worked if p != OWN_PARTY]
        share = {p: c if 0.0 < (c := contributions[p]) < math.inf else 0.0 for p in worked}
        scores = self._scores(found, paid, share)
        tokens = largest_remainder([scores[p] for p in paid], self.budget) if paid else []
        found.tokens = dict(zip(paid, tokens, strict=True))
        utility = {p: found.tokens.get(p, 0) - self.cost(p) for p in found.asked if p != OWN_PARTY}
        found.scores |= {
            "contribution": share,
            "score": scores,
            "utility": utility,
            "tokens": {p: float(found.tokens.get(p, 0)) for p in utility},
        }
        self._review(found.server_round, utility)

    def _scores(
        self, found: VerticalRound, paid: Sequence[int], share: Mapping[int, float]
    ) -> dict[int, float]:
        liars = self._liars(paid)
        for party in liars:
            found.faults.setdefault(party, "released less noise than it claims; not paid")
        self._energy = {}
        if self.reward == "contribution-over-cost":
            costs = [self.cost(p) for p in paid]
            values = contribution_over_cost([share[p] for p in paid], costs, self.gamma)
            scores = dict(zip(paid, values, strict=True))
        else:
            scores = {p: self._score(p, share[p]) for p in paid}
            self._tell_beyond_tariff(found, paid)
        return {p: 0.0 if p in liars else score for p, score in scores.items()}

    def _score(self, party: int, contributed: float) -> float:
        claim = self.claims.get(party)
        if claim is None:
            return self.rule.contribution_pay(contributed, 1.0)
        return self.rule.score(contributed, self._credited(claim.cost_ratio), claim.epsilon)

    def _credited(self, claimed: float) -> float:
        """Return the cost ratio that a claim is paid by."""
        return claimed if self.cost_claims == "believed" else min(claimed, max(self.cost_ratios))

    def _tell_beyond_tariff(self, found: VerticalRound, paid: Sequence[int]) -> None:
        for party in paid:
            claim = self.claims.get(party)
            if claim is not None and self._credited(claim.cost_ratio) < claim.cost_ratio:
                told = f"claims to cost {claim.cost_ratio:g}; paid as {max(self.cost_ratios):g}"
                found.faults.setdefault(party, told)

    def _liars(self, paid: Sequence[int]) -> set[int]:
        """Return the parties whose blocks vary less than their claimed noise alone would."""
        liars = set()
        for p in paid:
            energy, freedom = self._energy.get(p, (0.0, 0))
            claim = self.claims.get(p)
            if not freedom or claim is None:
                continue
            sigma = self.privacy.sensitivity * noise_multiplier(claim.epsilon, self.privacy.delta)
            if chdtr(freedom, energy / sigma**2) < _FALSE_ALARM:
                liars.add(p)
        return liars

    def _review(self, server_round: int, utility: Mapping[int, float]) -> None:
        for party, value in utility.items():
            known = self.utilities.setdefault(party, [])
            known.append(value)
            del known[:-_MEMORY]
        if server_round < self.warmup:
            return
        for party in utility:
            mean = sum(self.utilities[party]) / len(self.utilities[party])
            if mean < 0.0:
                self.left[party] = f"utility {mean:.1f} below 0; left after round {server_round}"

    def round_facts(self, found: VerticalRound) -> dict[str, float]:
        """Return what a round's record says besides accuracy."""
        values = [float(v) for v in found.tokens.values()]
        return {"budget": self.budget, "tokens": sum(found.tokens.values()), "gini": gini(values)}

    # --- state --------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return claims, the account of releases and recent utilities."""
        rows = [
            [p, *values, *[float("nan")] * (_MEMORY - len(values))]
            for p, values in sorted(self.utilities.items())
        ]
        utilities = torch.tensor(rows, dtype=torch.float64).view(-1, 1 + _MEMORY)
        steps = torch.tensor([self._steps], dtype=torch.int64)
        return {**super().state(), "utilities": utilities, "steps": steps}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        super().load_state(state)
        self._steps = int(state["steps"])
        self.utilities = {
            int(row[0]): [v for v in row[1:] if v == v] for row in state["utilities"].tolist()
        }
