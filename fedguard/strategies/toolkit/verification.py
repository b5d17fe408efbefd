"""Verification on the server's examples: who raises the loss, and who plants a patch.

The labels are the tools' own: true ones, or what the clients together believe.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedguard.strategies.toolkit.averaging import clip_factors, median
from fedguard.strategies.toolkit.claims import (
    CLAIM_CAP,
    WIDE_CLAIM_CAP,
    claimed_reach,
    claimed_shares,
)
from fedguard.strategies.toolkit.judged_round import JudgedRound
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.strategies.toolkit.server_validation import (
    Objective,
    Pruned,
    load_average,
    loss_among_present,
    prune_harmful,
    server_loss,
)
from fedguard.strategies.toolkit.trigger_search import (
    PatchEffect,
    Triggers,
    explains,
    patch_effect,
    search_triggers,
    success_rates,
)

SMALLEST_PATCH = 2.0
"""Positions that a patch must be allowed to cover: any one alone may well decide a class."""

TRIGGER_STEPS = 20
"""Steps of the search for patches."""

FEWEST = 3
"""Clients still in with fewer of which nobody can be told apart."""

SUSPECTS = 3
"""So many classes at most are looked at, those whose patch moves most examples."""

SUSPICION = 2.5
"""A class is looked at if its patch moves more than this multiple of what a typical class' does."""

OWN_PART = 0.8
"""Who teaches a patch has a model that it moves by at least this part of what it moves the mean."""

PRESENCE = 0.2
"""Without who teaches a patch, the mean loses more of it than of its class by this over |S|."""


class Verification:
    """Drop clients from a round's average while the server's loss, or a patch's effect, falls.

    Parameters
    ----------
    tools : ServerTools
        Model (overwritten) and labelled examples.
    state : JudgedRound
        The round; clients are taken out of it.
    margin : float or None
        How harmful a client must be to be dropped for the loss, as a cosine, 0 to below 1; None
        does not judge by the loss.
    trigger_margin : float
        How far a patch must move a client's own model into its class for the client to be dropped,
        as a difference of probabilities, 0 to below 1; 0 does not search for patches.
    trigger_budget : float
        Share of the input positions that a patch may cover, above 0 to 1.
    aux_samples : int
        Examples that patches are searched for on.
    evidence : float
        How far beyond the others' a harm must be; see `prune_harmful`.
    confirm : float
        Share by which the loss must fall without a group for the group to go whatever its members'
        evidence, 0 to 1; 1 asks for evidence of each.
    """

    def __init__(
        self,
        tools: ServerTools,
        state: JudgedRound,
        *,
        margin: float | None,
        trigger_margin: float,
        trigger_budget: float,
        aux_samples: int,
        evidence: float = 0.0,
        confirm: float = 1.0,
    ) -> None:
        self.tools = tools
        self.state = state
        self.margin = margin
        self.trigger_margin = trigger_margin
        self.trigger_budget = trigger_budget
        self.aux_samples = aux_samples
        self.evidence = evidence
        self.confirm = confirm

    def run(self) -> Tensor:
        """Reject who raises the server's loss, then who plants a patch; return the (K,) shares."""
        shares = claimed_shares(self.state.updates, CLAIM_CAP)
        if self.state.keep.sum() < FEWEST:
            return shares
        if self.margin is not None:
            harm = self._harmful(shares, self.margin)
            self.state.scores["harm"] = harm.harm
            self._reject_pruned(harm, "raises the loss on the server's examples")
        shares = self._widen(shares)
        x = self.tools.x
        positions = x[0, :1].numel() if x.ndim == 4 else x[0].numel()
        if self.trigger_margin > 0.0 and self.trigger_budget * positions >= SMALLEST_PATCH:
            self._search_backdoor(shares)
        return shares

    def _harmful(self, shares: Tensor, margin: float) -> Pruned:
        """Return who stays by the server's loss.

        A group goes if the loss without it is lower by the share ``confirm C / c``, with c of the C
        classes among the examples: what honest clients that disagree cost is less, and more where
        many classes are not seen. Otherwise only those go whose own harm is beyond the others'.
        """
        seen = int((self.tools.y.bincount() > 0).sum())
        asked = min(self.confirm * self.tools.num_classes / seen, 1.0)
        loss = loss_among_present(self.tools)
        group = self._prune(shares, loss, margin, evidence=0.0)
        everybody = torch.as_tensor(self.state.keep)
        before = self._value(loss, shares, everybody)
        if self._value(loss, shares, group.keep) < (1.0 - asked) * before:
            return group
        return self._prune(shares, loss, margin, evidence=self.evidence)

    def _value(self, objective: Objective, shares: Tensor, keep: Tensor) -> float:
        """Return an objective at the average of some of the clients."""
        load_average(self.tools, self.state.updates, keep, shares, self._factors())
        with torch.no_grad():
            return float(objective(self.tools.model))

    def _widen(self, shares: Tensor) -> Tensor:
        """Return shares, and set reaches, that believe large claims if the loss is lower so."""
        loss, keep = server_loss(self.tools), torch.as_tensor(self.state.keep)
        before = self._value(loss, shares, keep)
        wide = claimed_shares(self.state.updates, WIDE_CLAIM_CAP)
        usual = self.state.reach
        self.state.reach = usual * claimed_reach(self.state.updates)
        if self._value(loss, wide, keep) < before:
            return wide
        self.state.reach = usual
        return shares

    def _load(self, shares: Tensor) -> None:
        """Load the average of those still in into the server's model."""
        keep = torch.as_tensor(self.state.keep)
        load_average(self.tools, self.state.updates, keep, shares, self._factors())

    def _search_backdoor(self, shares: Tensor) -> None:
        """Search the average for patches that mean a class; reject those who teach them."""
        tools, scores = self.tools, self.state.scores
        self._load(shares)
        step = max(1, len(tools.x) // self.aux_samples)
        triggers = search_triggers(
            tools.model,
            tools.x[::step][: self.aux_samples],
            tools.num_classes,
            budget=self.trigger_budget,
            steps=TRIGGER_STEPS,
        )
        rates = success_rates(tools.model, tools.x, tools.y, triggers)
        scores["patch"] = torch.zeros(len(self.state.keep), dtype=torch.float64)
        typical = float(rates.median())
        taught: dict[int, int] = {}
        for target in rates.argsort(descending=True)[:SUSPECTS].tolist():
            if float(rates[target]) > SUSPICION * typical:
                taught |= dict.fromkeys(self._teachers(shares, triggers, target), target)
        room = int(self.state.keep.sum()) - (len(self.state.keep) + 1) // 2
        for row in sorted(taught, key=lambda row: -float(scores["patch"][row]))[: max(room, 0)]:
            self.state.reject(row, f"teaches a patch that means class {taught[row]}")

    def _teachers(self, shares: Tensor, triggers: Triggers, target: int) -> list[int]:
        """Return who teaches the patch of a class, by the clients' own models.

        A client does if the patch moves its model by more than `trigger_margin`, not much less than
        the average, and if without the client the average loses more of the patch than of what it
        knows of the class: who merely holds much of the class takes both along.
        """
        updates, scores = self.state.updates, self.state.scores
        everybody, factors = torch.as_tensor(self.state.keep), self._factors()
        inside = everybody.nonzero().flatten().tolist()
        self._load(shares)
        whole = self._effect(triggers, target)
        found = []
        for row in inside:
            own = updates.global_vector + factors[row].to(torch.float32) * updates.deltas[row]
            updates.layout.load(self.tools.model, own.to(self.tools.x.device))
            moved = self._effect(triggers, target).moved
            scores["patch"][row] = max(float(scores["patch"][row]), moved)
            if moved <= max(self.trigger_margin, OWN_PART * whole.moved):
                continue
            rest = everybody.clone()
            rest[row] = False
            load_average(self.tools, updates, rest, shares, factors)
            if explains(whole, self._effect(triggers, target)) > PRESENCE / len(inside):
                found.append(row)
        return found

    def _effect(self, triggers: Triggers, target: int) -> PatchEffect:
        """Return what a class' patch does to the model that is loaded."""
        return patch_effect(self.tools.model, self.tools.x, self.tools.y, triggers, target)

    def _prune(
        self,
        shares: Tensor,
        objective: Objective,
        margin: float,
        *,
        evidence: float,
    ) -> Pruned:
        keep = torch.as_tensor(self.state.keep)
        return prune_harmful(
            self.tools,
            objective,
            self.state.updates,
            keep,
            shares,
            self._factors(),
            margin=margin,
            fewest=(len(keep) + 1) // 2,
            evidence=evidence,
        )

    def _factors(self) -> Tensor:
        """Return the (K,) factors that clip to the reach, in median norms of those still in."""
        norms = self.state.norms
        typical = float(median(norms[torch.as_tensor(self.state.keep)]))
        if not typical > 0.0:
            return torch.ones_like(norms)
        return clip_factors(norms, typical * self.state.reach)

    def _reject_pruned(self, pruned: Pruned, reason: str) -> None:
        gone = torch.as_tensor(self.state.keep) & ~pruned.keep
        for row in gone.nonzero().flatten().tolist():
            self.state.reject(row, reason)
