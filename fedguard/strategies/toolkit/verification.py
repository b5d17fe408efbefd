"""Verification on the server's examples: who raises the loss, and who plants a patch.

The labels are the tools' own: true ones, or what the clients together believe.
"""

from __future__ import annotations

import math

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
from fedguard.strategies.toolkit.patch_memory import CARRIED, MOST_CARRIED, PatchMemory
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
    patch_effects,
    search_triggers,
    success_rates,
)

SMALLEST_PATCH = 2.0
"""Positions that a patch must be allowed to cover: any one alone may well decide a class."""

TRIGGER_STEPS = 20
"""Steps of the search for patches."""

LEAST = 1e-6
"""Smaller effects of a patch count as this one."""

FEWEST = 3
"""Clients still in with fewer of which nobody can be told apart."""

LOOKED = 16
"""So many classes at most are looked at, those whose patch moves most examples."""

FEWEST_CLASSES = 3
"""With fewer classes there is no typical one that a patch's could be unlike."""

OWN_ROWS = 2
"""Clients' own models are asked on so many times `aux_samples` examples at most."""

OWN_PART = 0.8
"""Who teaches a patch has a model that it moves by at least this part of what it moves the mean."""

RATE, PART, LEANING = 0.7, 0.25, -0.1
"""Weights of three signs that a client teaches a patch; that of the fourth, its strength, is 1."""

PRESENCE, MOST_PART = 0.2, 2.0
"""Who teaches a patch explains above the first of it over |S|; up to the second counts."""

RATE_FLOOR, LEANING_FLOOR = 0.05, 0.02
"""Added to both sides of a ratio: a typical class' patch may move nobody."""

SPREAD = 0.4
"""Where classes differ by more, as a robust deviation of logarithms, signs count for less."""

NONE = -99.0
"""Evidence against whom a patch moves too little, or who does not explain it."""

ENOUGH = 1.0
"""Evidence beyond which a client teaches a patch, if another does that teaches the same."""

ALONE = 1.5
"""Evidence beyond which a client teaches a patch that no other teaches."""


class Verification:
    r"""Drop clients from a round's average while the server's loss, or a patch's effect, falls.

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
        How far a patch must at least move a client's own model into its class for the client to be
        dropped, as a difference of probabilities, 0 to below 1; 0 does not search for patches.
    trigger_budget : float
        Share of the input positions that a patch may cover, above 0 to 1.
    aux_samples : int
        Examples that patches are searched for on.
    memory : PatchMemory
        What earlier rounds said of who teaches a patch; this one is added.
    evidence : float
        How far beyond the others' a harm must be; see `prune_harmful`.
    confirm : float
        Share by which the loss must fall without a group for the group to go whatever its members'
        evidence, 0 to 1; 1 asks for evidence of each.

    Notes
    -----
    The evidence that client k teaches the patch of class t, which decides from `ENOUGH` on where
    two clients or more teach it, and from `ALONE` on where one does:

    .. math::
       e_{kt} = s \log \frac{m_{kt}}{\operatorname{med}_u \max_j m_{ju}}
       + .7 s' \log \frac{r_t + .05}{\operatorname{med}_u r_u + .05}
       + .25 \min(|S| x_{kt}, 2)
       - .1 \log \frac{b_{kt} + .02}{\operatorname{med}_j b_{jt} + .02}
       + .5 e'_{kt}

    where :math:`m_{kt}` is how far the patch moves k's own model, :math:`r_t` the share of examples
    that it moves into t in the average, :math:`x_{kt}` what k explains of it (see `explains`),
    :math:`b_{kt}` the mean probability of t that k's model gives examples of other classes, S the
    clients still in, e' the evidence of k's last round (see `PatchMemory`; nodes whose ids do not
    last have none); s and s' are at most 1, and less where classes differ much (see `_unusual`).
    Nobody goes whom the patch moves by less than `trigger_margin` or .8 of what it moves the
    average, or who explains no more than .2 over \|S\|. Weights and bounds are ours.
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
        memory: PatchMemory,
        evidence: float = 0.0,
        confirm: float = 1.0,
    ) -> None:
        self.tools = tools
        self.state = state
        self.margin = margin
        self.trigger_margin = trigger_margin
        self.trigger_budget = trigger_budget
        self.aux_samples = aux_samples
        self.memory = memory
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
        if self.trigger_margin > 0.0 and not _why_unsearched(self.tools, self.trigger_budget):
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
        looked = rates.argsort(descending=True)[:LOOKED]
        unusual = _unusual(rates, rates.median(), RATE_FLOOR)
        nodes, classes = list(self.state.updates.node_ids), looked.tolist()
        evidence = self._evidence(shares, triggers, classes, RATE * unusual[looked])
        said = evidence > 0.5 * NONE
        carried = self.memory.carried(nodes, classes)
        evidence += carried
        self.memory.learn(nodes, classes, evidence, said)
        inside = torch.as_tensor(self.state.keep)
        best, where = evidence.max(dim=0)
        scores["patch"] = torch.where(inside, best, 0.0)
        room = int(inside.sum()) - (len(inside) + 1) // 2
        accused = (evidence > ENOUGH) | (carried > CARRIED * ENOUGH)
        company = accused.sum(dim=1)[where] > 1
        teaches = inside & (best > torch.where(company, ENOUGH, ALONE))
        proven = teaches.nonzero().flatten().tolist()
        for row in sorted(proven, key=lambda row: -float(best[row]))[: max(room, 0)]:
            self.state.reject(row, f"teaches a patch that means class {int(looked[where[row]])}")

    def _evidence(
        self, shares: Tensor, triggers: Triggers, targets: list[int], unusual: Tensor
    ) -> Tensor:
        """Return the (C, K) evidence that a client teaches a class' patch; `NONE` for who cannot.

        Four signs are added up: how far the patch moves the client's own model, against the model
        that a typical class' patch moves most; how `unusual`, (C,), the class is; what the client
        explains of the patch, see `explains`, asked where it can decide; and, against it, how much
        its own model leans to the class without the patch: who holds much of a class does.
        """
        updates, factors = self.state.updates, self._factors()
        everybody = torch.as_tensor(self.state.keep)
        inside = everybody.nonzero().flatten().tolist()
        whole = self._effects(triggers, targets)
        average = self._effects(triggers, targets, most=OWN_ROWS * self.aux_samples)
        moved = torch.zeros(len(targets), len(everybody), dtype=torch.float64)
        bare = torch.zeros_like(moved)
        for row in inside:
            own = updates.global_vector + factors[row].to(torch.float32) * updates.deltas[row]
            updates.layout.load(self.tools.model, own.to(self.tools.x.device))
            found = self._effects(triggers, targets, most=OWN_ROWS * self.aux_samples)
            for case, effect in enumerate(found):
                moved[case, row], bare[case, row] = effect.moved, effect.bare
        moved, bare = moved.nan_to_num(0.0), bare.nan_to_num(0.0)  # one model blinds no search
        most = moved.amax(dim=1)
        strength = _unusual(moved, most.median(), LEAST, among=most)
        usual = bare[:, inside].median(dim=1, keepdim=True).values
        evidence = strength + unusual[:, None] + LEANING * _log_ratio(bare, usual, LEANING_FLOOR)
        by_mean = torch.tensor([effect.moved for effect in average], dtype=torch.float64)
        least = (OWN_PART * by_mean).clamp(min=self.trigger_margin)
        evidence[moved <= least[:, None]] = NONE
        open_cases = evidence + PART * MOST_PART > ENOUGH - MOST_CARRIED
        for row in open_cases.any(dim=0).nonzero().flatten().tolist():
            rest = everybody.clone()
            rest[row] = False
            load_average(self.tools, updates, rest, shares, factors)
            for case in open_cases[:, row].nonzero().flatten().tolist():
                (without,) = self._effects(triggers, targets[case : case + 1])
                part = len(inside) * explains(whole[case], without)
                evidence[case, row] += PART * min(part, MOST_PART) if part > PRESENCE else NONE
        return evidence

    def _effects(
        self, triggers: Triggers, targets: list[int], most: int | None = None
    ) -> list[PatchEffect]:
        """Return what some classes' patches do to the loaded model, on `most` examples or all."""
        x, y = self.tools.x, self.tools.y
        step = 1 if most is None else -(-len(x) // most)
        return patch_effects(self.tools.model, x[::step], y[::step], triggers, targets)

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


def search_left_out(
    tools: ServerTools | None, trigger_margin: float, trigger_budget: float
) -> list[str]:
    """Return that no patch is searched for, and why, where a server with rows would have one."""
    if tools is None or trigger_margin == 0.0:
        return []
    why = _why_unsearched(tools, trigger_budget)
    return [why] if why else []


def _why_unsearched(tools: ServerTools, trigger_budget: float) -> str:
    """Return why no patch is searched for on such inputs, in a line; empty where one is."""
    x = tools.x
    positions = x[0, :1].numel() if x.ndim == 4 else x[0].numel()
    if tools.num_classes < FEWEST_CLASSES:
        return "no search for backdoor patches among two classes"
    if trigger_budget * positions >= SMALLEST_PATCH:
        return ""
    enough = math.ceil(100.0 * SMALLEST_PATCH / positions) / 100.0
    why = f"trigger_budget below {enough:g}" if enough <= 1.0 else "inputs of one position"
    return f"no search for backdoor patches: {why}"


def _log_ratio(value: Tensor, typical: Tensor, floor: float) -> Tensor:
    """Return the logarithm of what a value is of a typical one, both above 0 by `floor`."""
    return torch.log((value.clamp(min=0.0) + floor) / (typical.clamp(min=0.0) + floor))


def _unusual(
    value: Tensor, typical: Tensor, floor: float, *, among: Tensor | None = None
) -> Tensor:
    """Return `_log_ratio`, made smaller where values `among` classes differ by more than `SPREAD`.

    Some data have classes that a patch reaches easily beside others that none does; there a large
    ratio is no news. The deviation is 1.48 times the median absolute one; `among` is `value` itself
    where it is left out.
    """
    every = _log_ratio(value if among is None else among, typical, floor)
    spread = 1.4826 * float((every - every.median()).abs().median())
    return _log_ratio(value, typical, floor) * min(1.0, SPREAD / max(spread, SPREAD))
