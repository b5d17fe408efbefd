"""WeiDetect: keep the local models whose validation score a Weibull law finds likely."""

from __future__ import annotations

from dataclasses import dataclass
from logging import WARNING
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from flwr.common.logger import log
from numpy.typing import NDArray
from torch import Tensor

from fedguard.errors import (
    check_assumed_malicious,
    check_choice,
    check_number,
    check_unread,
)
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import clip_factors, lowest, median, rejections
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.distances import row_norms
from fedguard.strategies.toolkit.recall_limits import below_recall_limits, upper_median
from fedguard.strategies.toolkit.scored_average import ScoredAverage
from fedguard.strategies.toolkit.scoring import Scores, score_models
from fedguard.strategies.toolkit.server_training import require_tools
from fedguard.strategies.toolkit.weibull import SAME, fit, fit_left_censored, mad_keep
from fedguard.updates import ClientUpdates, Verdict

Mode = Literal["hardened", "paper"]
Selection = Literal["threshold", "top"]
Family = Literal["weibull2", "exponweib"]

_FEWEST_TO_FIT = 5
_SMALL_ROUND = 8
_MOST_POOLED = 64
_LARGEST_CLAIM = 3.0
_WARM = 0.75
_SHARE = 0.4


@dataclass(frozen=True)
class _Judgement:
    """What phase 2 decides: CDF and shortfall per client, who stays, their weight, and why not."""

    cdf: NDArray[np.float64]
    shortfall: NDArray[np.float64]
    keep: NDArray[np.bool_]
    soft: NDArray[np.float64]
    why: list[str]


class WeiDetect(RobustStrategy):
    r"""Score every local model on the server's data and remove those a Weibull law finds too low.

    Phase 1: macro F1 of each client's model on the server's labelled examples, and its recall per
    class. Phase 2: a law is fitted to the round's scores by maximum likelihood, and clients with a
    low F are removed.

    A reading of "WeiDetect: Weibull Distribution-Based Defense against Poisoning Attacks in
    Federated Learning for Network Intrusion Detection Systems", arXiv 2504.04367, 2025, whose
    selection rule is not public.

    ``mode="paper"`` removes clients with ``F(V_k) < threshold``, or keeps the ``n - f`` highest F
    (``selection="top"``). F grows with V, so the latter is the ``n - f`` highest scores and does
    not depend on the fit. The rest are averaged by claimed size.

    ``mode="hardened"``, by default:

    1. *Fit on the upper half*: the lower half of the scores is censored from the left, so that
       attackers do not mask themselves; a client with ``F < threshold`` and a score more than
       `margin` below the global model's is a suspect.
    2. *Recall per class*: a client is a suspect if its recall is too low for a class c
       that the global model knows (``R_c >= 0.8``). m_c is the upper median over clients, w_c the
       clients' deviation above m_c (a MAD of the upper half) times a normal quantile corrected
       for the number of classes, no less than `margin` and the error of estimating a share from
       so few examples, and no more than ``0.6 min(R_c, m_c)``. One lost class hardly moves F1.
       A suspect whose recall is below a quarter of ``min(R_c, m_c)`` is removed. The others are
       removed as a group if the average with them, at a share of at least 0.4, loses more than
       `tolerance` recall in c; those suspected for their F1, if it loses so much F1. Suspects
       that are left count by `doubt`: honest clients without examples of a class forget it too.
    3. *Cold start*: while the global model scores below 0.75 times the upper median of the
       clients there is nothing to compare with. Weights are ``min(1, 2 F)``.
    4. *It must pay*: the average under these weights is taken if its macro F1 on the server's
       examples is not below that of the average of all; else nobody is removed or doubted. Where
       clients hold few of many classes, honest models forget the others as a flip makes them do.
    5. Updates are clipped to the round's median norm; claimed sizes count up to 3 times their
       median.

    Rounds of fewer than 8 clients add up to 64 scores accepted in the last `pooled_rounds` rounds
    to the fit; rounds of fewer than 5 scores in all are not fitted. Where a fit fails, clients
    more than 3 median absolute deviations below the median are taken for low, and the log says
    so. Identical scores remove nobody; where every score is 0 the model stays. Models with
    logits that are not finite are removed before the fit. Classes with fewer than 5 examples on
    the server are left out of step 2.

    Parameters
    ----------
    mode : str
        ``"hardened"`` or ``"paper"``.
    selection : str
        ``"threshold"`` or ``"top"``; the hardened mode does not read it.
    threshold : float, optional
        F below which a client is low, 0 to 1; 0.25 in the paper mode, 0.02 in the hardened one.
    family : str
        ``"weibull2"``, or ``"exponweib"``, whose second shape is free; the hardened mode fits the
        former.
    margin : float
        Loss of F1 or recall against the global model that is always forgiven, 0 to 1.
    tolerance : float
        Recall or F1 that a group of suspects may cost the average, 0 to 1.
    doubt : float
        Factor on the weight of suspects that are not removed, 0 to 1.
    pooled_rounds : int
        Rounds whose accepted scores help small rounds, >= 0.
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5, for ``selection="top"``; f is its
        share of n, rounded up.

    Notes
    -----
    .. math::
       F(V) = 1 - \exp\left( -(V / \lambda)^{\beta} \right), \qquad
       V_k = \text{macro F1 of } w + \delta_k

    .. math::
       \text{paper:} \quad \delta = \frac{\sum_{k \in S} n_k \delta_k}{\sum_{k \in S} n_k}, \qquad
       S = \{ k : F(V_k) \ge \theta \}

    .. math::
       \text{hardened, suspect in class } c: \quad r_{kc} < \min(R_c, m_c) - w_c

    where w is the global model, :math:`\delta_k` client k's update, :math:`n_k` the examples that
    it claims, :math:`\theta` the `threshold`, :math:`\lambda` and :math:`\beta` the maximum
    likelihood fit, :math:`r_{kc}` and :math:`R_c` the recall of class c of client k's and the
    global model; :math:`m_c` and :math:`w_c` are told in step 2.

    Examples
    --------
    >>> import torch
    >>> from fedguard.layout import ParameterLayout
    >>> from fedguard.strategies import WeiDetect
    >>> from fedguard.updates import ClientUpdates
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
    >>> server_data = torch.eye(2).repeat(10, 1), torch.arange(20) % 2
    >>> good, flipped = [1.0, -1.0, -1.0, 1.0], [-3.0, 3.0, 3.0, -3.0]
    >>> updates = ClientUpdates.from_matrix(
    ...     torch.tensor([good, good, good, good, flipped]),
    ...     global_vector=torch.tensor([1.0, -1.0, -1.0, 1.0]),
    ...     layout=ParameterLayout.from_module(model),
    ... )
    >>> rule = WeiDetect(model=model, server_data=server_data, latent_layer="0")
    >>> verdict = rule.decide(updates)
    >>> verdict.scores["macro_f1"].tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0]
    >>> [round(value, 3) for value in verdict.weights.tolist()]
    [0.25, 0.25, 0.25, 0.25, 0.0]
    """

    traits = RobustStrategy.traits.but(
        server_data="labelled", server_model=True, tasks=frozenset({"classification"})
    )
    properties: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        *,
        mode: Mode = "hardened",
        selection: Selection = "threshold",
        threshold: float | None = None,
        family: Family = "weibull2",
        margin: float = 0.15,
        tolerance: float = 0.1,
        doubt: float = 0.1,
        pooled_rounds: int = 3,
        assumed_malicious: float = 0.25,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_choice("mode", mode, ("hardened", "paper"))
        check_choice("selection", selection, ("threshold", "top"))
        check_choice("family", family, ("weibull2", "exponweib"))
        if threshold is not None:
            check_number("threshold", threshold, at_least=0.0, at_most=1.0)
        check_number("margin", margin, at_least=0.0, at_most=1.0)
        check_number("doubt", doubt, at_least=0.0, at_most=1.0)
        check_number("tolerance", tolerance, at_least=0.0, at_most=1.0)
        check_number("pooled_rounds", pooled_rounds, at_least=0)
        check_assumed_malicious(assumed_malicious)
        if mode == "paper":
            check_unread(
                "paper mode",
                margin=(margin, 0.15),
                tolerance=(tolerance, 0.1),
                doubt=(doubt, 0.1),
                pooled_rounds=(pooled_rounds, 3),
            )
            if selection == "top":
                check_unread("selection top", threshold=(threshold, None))
        else:
            check_unread(
                "hardened mode", selection=(selection, "threshold"), family=(family, "weibull2")
            )
        self.mode = mode
        self.selection = selection
        self.threshold = threshold if threshold is not None else 0.25 if mode == "paper" else 0.02
        self.family = family
        self.margin = margin
        self.tolerance = tolerance
        self.doubt = doubt
        self.pooled_rounds = pooled_rounds
        self.assumed_malicious = assumed_malicious
        self.reset()

    def reset(self) -> None:
        """Forget the accepted scores of earlier rounds."""
        self._pool: list[NDArray[np.float64]] = []

    def state(self) -> dict[str, Tensor]:
        """Return the accepted scores of the last rounds, and how many each round has."""
        scores = np.concatenate(self._pool) if self._pool else np.zeros(0)
        sizes = torch.tensor([len(found) for found in self._pool], dtype=torch.int64)
        return {"pooled_scores": torch.from_numpy(scores), "pooled_sizes": sizes}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        parts = torch.split(state["pooled_scores"], state["pooled_sizes"].tolist())
        self._pool = [part.numpy().copy() for part in parts] if len(state["pooled_sizes"]) else []

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean of the models that score well; see `RobustStrategy.combine`."""
        tools = require_tools(self)
        found = score_models(tools, updates.layout, updates.deltas, updates.global_vector)
        averaging = self._averaging(updates)
        judgement = self._judge(found, averaging)
        weights = averaging.weights(judgement.keep * judgement.soft)
        clients = found.rows(1)
        self._learn(clients.macro_f1[weights > 0].numpy())
        reasons = rejections(updates, weights, lambda row: judgement.why[row])
        named = {
            "macro_f1": clients.macro_f1,
            "weibull_cdf": torch.from_numpy(judgement.cdf),
            "recall_shortfall": torch.from_numpy(judgement.shortfall),
        }
        return Verdict(averaging.delta(weights), weights, named, reasons)

    def _averaging(self, updates: ClientUpdates) -> ScoredAverage:
        if self.mode == "paper":
            return ScoredAverage(require_tools(self), updates, updates.num_examples, None)
        norms = row_norms(updates.trainable)
        claims = updates.num_examples
        return ScoredAverage(
            require_tools(self),
            updates,
            claims.clamp(max=_LARGEST_CLAIM * median(claims)),
            clip_factors(norms, median(norms)),
        )

    def _learn(self, accepted: NDArray[np.float64]) -> None:
        self._pool = (
            [*self._pool, accepted.copy()][-self.pooled_rounds :] if self.pooled_rounds else []
        )

    def _judge(self, found: Scores, averaging: ScoredAverage) -> _Judgement:
        """Decide on all clients; row 0 of `found` is the global model, the others are clients."""
        clients = found.rows(1)
        scores, finite = clients.macro_f1.numpy(), clients.finite.numpy()
        count = len(scores)
        why = ["logits are not finite" if not fine else "" for fine in finite]
        nothing = np.zeros(count)
        if not finite.any() or float(scores.max()) <= 0.0:
            why = [reason or "every model scores 0" for reason in why]
            return _Judgement(nothing, nothing, np.zeros(count, dtype=np.bool_), nothing, why)
        cdf, low = self._cdf(scores, finite)
        if self.mode == "paper":
            keep = finite & (self._top(scores, finite) if self.selection == "top" else ~low)
            why = [
                reason or f"F1 {v:.3f}, Weibull CDF {f:.3g}"
                for reason, v, f in zip(why, scores, cdf, strict=True)
            ]
            return _Judgement(cdf, nothing, keep, np.ones(count), why)
        return self._paying(self._hardened(found, averaging, cdf, low, why), finite, averaging)

    def _paying(
        self, judged: _Judgement, finite: NDArray[np.bool_], averaging: ScoredAverage
    ) -> _Judgement:
        """Return the judgement unless the average scores lower by it; else one that all pass."""
        factors, all_in = judged.keep * judged.soft, finite.astype(np.float64)
        if not factors.any() or np.ptp(factors[finite]) == 0.0:
            return judged
        everybody, chosen = averaging.scores([all_in, factors]).macro_f1.tolist()
        if chosen >= everybody:
            return judged
        return _Judgement(judged.cdf, judged.shortfall, finite, np.ones(len(finite)), judged.why)

    def _cdf(
        self, scores: NDArray[np.float64], finite: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return F of every score and which scores are low."""
        cdf = np.where(finite, 1.0, 0.0)
        low = ~finite
        own = scores[finite]
        if np.ptp(own) < SAME:
            return cdf, low
        hardened = self.mode == "hardened"
        sample = own
        if hardened and len(own) < _SMALL_ROUND:
            sample = np.concatenate([*self._pool, own])[-_MOST_POOLED:]
            if len(sample) < _FEWEST_TO_FIT:
                return cdf, low
        law = (
            fit_left_censored(sample)
            if hardened
            else fit(sample, exponentiated=self.family == "exponweib")
        )
        if law is None:
            log(WARNING, "no Weibull law fits the scores; low ones are told by their deviation")
            keep = mad_keep(own)
            cdf[finite] = np.where(keep, 1.0, 0.0)
        else:
            cdf[finite] = law.cdf(own)
            keep = cdf[finite] >= self.threshold
        low[finite] = ~keep
        return cdf, low

    def _top(self, scores: NDArray[np.float64], finite: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the n - f highest scores; those that tie with the last one are in too."""
        wanted = len(scores) - assumed_count(self.assumed_malicious, len(scores))
        ranked = torch.from_numpy(np.where(finite, -scores, np.inf))
        return np.asarray(lowest(ranked, min(wanted, int(finite.sum()))).numpy(), dtype=np.bool_)

    def _hardened(
        self,
        found: Scores,
        averaging: ScoredAverage,
        cdf: NDArray[np.float64],
        low: NDArray[np.bool_],
        why: list[str],
    ) -> _Judgement:
        clients = found.rows(1)
        scores, finite = clients.macro_f1.numpy(), clients.finite.numpy()
        anchor = float(found.macro_f1[0])
        beyond, gone = below_recall_limits(found, finite, averaging.examples, self.margin)
        shortfall, worst = beyond.max(axis=1), beyond.argmax(axis=1)
        if anchor < _WARM * upper_median(scores[finite]):
            soft = np.where(finite, np.minimum(1.0, 2.0 * cdf), 0.0)
            why = [reason or "Weibull CDF 0 in a cold start" for reason in why]
            return _Judgement(cdf, shortfall, finite, soft, why)
        too_low = finite & low & (scores < anchor - self.margin)
        forgets = finite[:, None] & (beyond > 0.0)
        removed = gone | self._confirmed(too_low, forgets, finite, averaging)
        for row in np.flatnonzero(finite & removed):
            recall = float(clients.recall[row, worst[row]])
            why[row] = (
                f"recall {recall:.2f} in class {worst[row]}, {shortfall[row]:.2f} below the limit"
                if shortfall[row] > 0.0
                else f"F1 {scores[row]:.3f} (global {anchor:.3f}), Weibull CDF {cdf[row]:.2g}"
            )
        doubtful = too_low | (beyond > 0.0).any(axis=1)
        soft = np.where(doubtful, self.doubt, 1.0)
        return _Judgement(cdf, shortfall, finite & ~removed, soft, why)

    def _confirmed(
        self,
        too_low: NDArray[np.bool_],
        forgets: NDArray[np.bool_],
        finite: NDArray[np.bool_],
        averaging: ScoredAverage,
    ) -> NDArray[np.bool_]:
        """Return the (K,) suspects whose group does harm to the average.

        Parameters
        ----------
        too_low : ndarray
            (K,) suspects by F1.
        forgets : ndarray
            (K, C) suspects by the recall of a class.
        finite : ndarray
            (K,) models that can be averaged at all.
        averaging : ScoredAverage
            Scores the averages.
        """
        suspects = too_low | forgets.any(axis=1)
        rest = finite & ~suspects
        if not suspects.any() or not rest.any():
            return suspects & bool(rest.any())
        labels = np.flatnonzero(forgets.any(axis=0))
        groups = [too_low, *(forgets[:, label] for label in labels)]
        found = averaging.scores(
            [rest.astype(float), *(averaging.joined(rest, group, _SHARE) for group in groups)]
        )
        recall, f1 = found.recall.numpy(), found.macro_f1.numpy()
        removed = too_low & (f1[1] < f1[0] - self.tolerance)
        for row, label in enumerate(labels, start=2):
            if recall[row, label] < recall[0, label] - self.tolerance:
                removed = removed | forgets[:, label]
        return np.asarray(removed, dtype=np.bool_)
