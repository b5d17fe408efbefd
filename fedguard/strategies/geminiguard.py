"""GeminiGuard: model-weight analysis, then latent-space analysis, on unlabelled examples."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import Tensor

from fedguard.errors import ConfigurationError, check_choice, check_number, check_unread
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.claims import CLAIM_CAP, claimed_shares
from fedguard.strategies.toolkit.clustering import Labels, adaptive_clusters
from fedguard.strategies.toolkit.consensus import with_consensus_labels
from fedguard.strategies.toolkit.judged_round import JudgedRound
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.strategies.toolkit.two_views import TwoViews, reject_clusters
from fedguard.strategies.toolkit.verification import Verification, search_left_out
from fedguard.strategies.toolkit.weight_view import central_largest_cluster
from fedguard.updates import ClientUpdates, Verdict


class GeminiGuard(TwoViews):
    r"""Filter updates by two views: distances between models, then what they do to examples.

    ``mode="paper"``

    1. Model-weight analysis: average-linkage clusters of the clients by their cosine and Euclidean
       distances, their number chosen by silhouette; the largest cluster goes on.
    2. Latent-space analysis: squared MMD between clients of the activations of each remaining
       client's model on auxiliary examples; clients below half the median trust are rejected.
    3. Aggregation: updates clipped to the median norm of the accepted, averaged by trust.

    ``mode="consensus"`` keeps both views and changes what they may decide. Where clients hold few
    labels, the majority's cluster is not the honest clients, and whoever rejects by cluster loses
    more than the attack costs. So the views reject only what honest training does not produce:

    1. Model-weight analysis: near-identical updates collapse into one vote, and blocks of three or
       more are rejected; so are updates longer than `max_norm_ratio` times the median norm, unless
       lengths differ by more and they go the way of the others, and those that pull against the
       others by more than `opposition` allows; see `reject_long` and `reject_opposed`.
    2. Latent-space analysis: clients whose activations are not finite are rejected. The server's
       examples take the labels that the mean of all updates, clipped to their median norm, gives
       them; see `with_consensus_labels`. For every class the small patch is searched for that moves
       the examples most into it, on the average of what remains; see `search_triggers`. A client
       is rejected on evidence: that a class' patch moves its own model more, and the average more
       often, than a typical class' patch does; that without the client the average would lose
       more of the patch than of the class itself, which who merely holds much of the class takes
       along; and that its model does not lean to the class without the patch. Half of last round's
       evidence counts on, and who stands alone goes on half as much again. Down to half of the
       clients, most evidence first. See `Verification`.
    3. Aggregation: updates clipped to 1.5 median norms, averaged by claimed examples, at most three
       times their median; up to ten times, and by as much longer as the square root of the claim's
       ratio, where that lowers the loss on the labels by consensus.

    A reading of Lyu et al., "Two Heads Are Better than One: Model-Weight and Latent-Space Analysis
    for Federated Learning on Non-iid Data against Poisoning Attacks", arXiv 2025 (2503.23288). The
    public text names the two views, the pairwise cosine and Euclidean distances of client models
    and the order of the modules, and says that it is unsupervised. The clustering algorithm, the
    choice of the benign cluster, the MMD kernel, the trust formula, the aggregation and the whole
    consensus mode are ours. Neither mode reads the labels of the auxiliary data; `sentinel` does.

    Without a model and auxiliary data (`tools` is None) only the first view is taken; consensus
    mode then keeps clusters in order of their distance to the coordinate-wise median until more
    than half of the votes are in.

    Parameters
    ----------
    mode : {"consensus", "paper"}
        See above.
    vector : {"delta", "weights"}
        What the cosine is taken of: updates, or whole client models as the paper writes; Euclidean
        distances are the same. Left out, ``"weights"`` in paper mode and ``"delta"`` in consensus.
    min_trust : float
        Paper mode: share of the median trust below which a client is rejected, 0 to 1.
    trigger_margin : float
        Consensus mode: how far a patch must at least move a client's own model into its class for
        the client to be rejected, as a difference of probabilities, 0 to below 1; 0 searches for
        none.
    trigger_budget : float
        Consensus mode: share of the input positions that a patch may cover, above 0 to 1; inputs
        of so few positions that this is less than two are not searched, nor is among two classes.
    clip_ratio : float
        Multiple of the median norm that updates are clipped to, above 0. Left out, 1 in paper mode
        and 1.5 in consensus.
    opposition : float
        Consensus mode: robust standard deviations by which a client must pull more against the
        others than they do, at least 0; 0 rejects nobody for it.
    **views : Any
        ``max_clusters``, ``min_silhouette``, ``tau``, ``aux_samples`` and, for consensus mode,
        ``max_norm_ratio`` of `TwoViews`.

    Notes
    -----
    .. math::
       D_{ij} = \frac{1}{2} \left( \frac{C_{ij}}{\operatorname{med} C}
       + \frac{E_{ij}}{\operatorname{med} E} \right), \qquad
       T_i = \exp\left( \frac{-m_i}{\tau \operatorname{med}_j m_j} \right), \qquad
       m_i = \operatorname{med}_{j \ne i} M_{ij}

    .. math::
       \delta = \frac{1}{\sum_{k \in S} p_k} \sum_{k \in S} p_k \delta_k
       \min\left( 1, \frac{b_k}{\lVert \delta_k \rVert} \right), \qquad
       b_k = r \operatorname{med}_{j \in S} \lVert \delta_j \rVert

    where :math:`C_{ij}` and :math:`E_{ij}` are the cosine and Euclidean distances of clients i and
    j, :math:`M_{ij}` the squared MMD of their activations, :math:`\delta_k` client k's update, S
    the accepted and r the `clip_ratio`; :math:`p_k` is :math:`T_k` in paper mode. In consensus mode
    it is :math:`\min(n_k, 3 \operatorname{med} n)` of the claimed examples :math:`n_k`, or, where
    that lowers the loss on the labels by consensus, :math:`\min(n_k, 10 \operatorname{med} n)` with
    :math:`b_k` longer by the square root of :math:`n_k / \operatorname{med} n`, held to 1 to 10.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import GeminiGuard
    >>> from fedguard.updates import ClientUpdates
    >>> honest = [[1.0, 0.0], [0.9, 0.3], [1.1, -0.3], [1.0, 0.2], [0.8, 0.1]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor([*honest, *[[-1.0, 0.0]] * 3]))
    >>> GeminiGuard().decide(updates).reasons[7]
    'one of 3 near-identical updates'
    """

    traits = RobustStrategy.traits.but(
        blocks="rows",
        server_data="unlabelled",
        server_model=True,
        latent=True,
        tasks=frozenset({"classification"}),
    )

    def __init__(
        self,
        *,
        mode: Literal["consensus", "paper"] = "consensus",
        vector: Literal["delta", "weights"] | None = None,
        min_trust: float = 0.5,
        trigger_margin: float = 0.15,
        trigger_budget: float = 0.02,
        clip_ratio: float | None = None,
        opposition: float = 6.0,
        **views: Any,
    ) -> None:
        if str(mode) == "hardened":
            told = "consensus or paper; the labelled defence of that mode is now strategy sentinel"
            raise ConfigurationError("mode", mode, told)
        check_choice("mode", mode, ("consensus", "paper"))
        if mode == "paper":
            check_unread(
                "paper mode",
                trigger_margin=(trigger_margin, 0.15),
                trigger_budget=(trigger_budget, 0.02),
                opposition=(opposition, 6.0),
                max_norm_ratio=(views.get("max_norm_ratio", 2.5), 2.5),
            )
        else:
            check_unread("consensus mode", min_trust=(min_trust, 0.5))
        if clip_ratio is None:
            clip_ratio = 1.0 if mode == "paper" else 1.5
        vector = vector or ("weights" if mode == "paper" else "delta")
        super().__init__(vector=vector, clip_ratio=clip_ratio, opposition=opposition, **views)
        check_number("min_trust", min_trust, at_least=0, at_most=1)
        check_number("trigger_margin", trigger_margin, at_least=0, below=1)
        check_number("trigger_budget", trigger_budget, above=0, at_most=1)
        self.mode = mode
        self.min_trust = min_trust
        self.trigger_margin = trigger_margin
        self.trigger_budget = trigger_budget

    def left_out(self) -> list[str]:
        """Return that no patch is searched for, and why, where that is so."""
        margin = 0.0 if self.mode == "paper" else self.trigger_margin
        return search_left_out(self.tools, margin, self.trigger_budget)

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Take both views and average what remains; see `RobustStrategy.combine`."""
        state, trust = self._seen(updates)
        if self.mode == "paper":
            return self._aggregate(state, trust)
        if self.tools is None:
            return self._aggregate(state, claimed_shares(updates, CLAIM_CAP))
        return self._aggregate(state, self._search(self.tools, state).run())

    def _search(self, tools: ServerTools, state: JudgedRound) -> Verification:
        """Return the second half of the latent view: who teaches a patch."""
        return Verification(
            with_consensus_labels(tools, state.updates),
            state,
            margin=None,
            trigger_margin=self.trigger_margin,
            trigger_budget=self.trigger_budget,
            aux_samples=self.aux_samples,
            memory=self._patches,
        )

    def _by_weights(self, state: JudgedRound, combined: np.ndarray, distance: np.ndarray) -> Labels:
        if self.mode != "paper":
            return super()._by_weights(state, combined, distance)
        labels = adaptive_clusters(combined, self.max_clusters, self.min_silhouette)
        reject_clusters(state, labels, {central_largest_cluster(labels, state.updates)})
        return labels

    def _by_trust(self, state: JudgedRound, rows: np.ndarray, trust: Tensor) -> None:
        if self.mode != "paper":
            return
        floor = self.min_trust * float(trust[rows].median())
        for row in rows:
            if float(trust[row]) < floor:
                state.reject(int(row), "latent representation unlike the others'")
