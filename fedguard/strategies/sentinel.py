"""Sentinel: a server with labelled examples rejects on evidence."""

from __future__ import annotations

from typing import Any

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.claims import CLAIM_CAP, claimed_shares
from fedguard.strategies.toolkit.two_views import TwoViews
from fedguard.strategies.toolkit.verification import Verification, search_left_out
from fedguard.updates import ClientUpdates, Verdict


class Sentinel(TwoViews):
    r"""Reject copies, excess length, whoever harms unlike the others, and whoever teaches a patch.

    1. Near-identical updates collapse into one vote, and blocks of three or more are rejected;
       so are updates longer than `max_norm_ratio` times the median norm, unless lengths differ by
       more and they go the way of the others, and by choice those that pull against the others; see
       `TwoViews`.
    2. Loss: in the average of what remains, clipped to 1.5 median norms and weighted by claimed
       examples (at most three times their median), clients are dropped one at a time as long as the
       loss on the server's labelled examples falls by more than `margin` asks; see `prune_harmful`.
       They are rejected if the loss falls by the share `confirm` without them, else only those
       whose own harm is unlike the others' by `evidence`. The loss is taken among the classes that
       the server holds, so nobody is judged by the others. Where it is lower so, claims then count
       up to ten times their median, and who claims n times the median may be sqrt(n) times as long.
    3. Backdoor search: for every class the small patch is searched for that moves the server's
       examples most into it, on the average of what remains; see `search_triggers`. A client is
       rejected on the evidence of four signs: how far a class' patch moves its own model, and how
       many examples it moves in the average, against what a typical class' patch does; how much
       more of the patch than of the class the average would lose without the client; and, against
       it, how its model leans to the class without the patch. Half of last round's evidence counts
       on; see `Verification`.
    4. At least half of the clients are kept throughout.

    Ours, 2026; no paper. It grew out of what was geminiguard's hardened mode, and plays in
    FLTrust's league: the server's labels decide. docs/sentinel.md says what each default was tuned
    on, and what it does not stop.

    Without a model and data (`tools` is None), clusters in weight space decide; see `TwoViews`.

    Parameters
    ----------
    margin : float
        How harmful a client must be to be dropped, as the cosine between its update and the
        gradient of the server's loss, 0 to below 1; 0 drops whoever harms at all.
    confirm : float
        Share by which the server's loss must fall without a group for the group to go, 0 to 1,
        times the number of classes over that of the classes which the server holds; otherwise
        only clients go whose own harm is beyond the others' by `evidence`.
    evidence : float
        Robust standard deviations by which a client's harm must be beyond the others' to be
        rejected for it alone, at least 0; 0 asks for none.
    trigger_margin : float
        How far a patch must at least move a client's own model into its class for the client to be
        rejected, as a difference of probabilities, 0 to below 1; 0 does not search.
    trigger_budget : float
        Share of the input positions that a patch may cover, above 0 to 1; inputs of so few
        positions that this is less than two are not searched, nor is among two classes.
    **views : Any
        ``vector``, ``max_clusters``, ``min_silhouette``, ``tau``, ``max_norm_ratio``,
        ``clip_ratio``, ``opposition`` and ``aux_samples`` of `TwoViews`.

    Notes
    -----
    .. math::
       \delta(S) = \frac{1}{\sum_{k \in S} p_k} \sum_{k \in S} p_k \delta_k \min\left( 1,
       \frac{r \operatorname{med}_{j \in S} \lVert \delta_j \rVert}{\lVert \delta_k \rVert} \right),
       \qquad p_k = \min(n_k, 3 \operatorname{med} n)

    .. math::
       \text{a group } G \text{ goes if } \quad \ell(w + \delta(S \setminus G))
       < \left( 1 - \min\left( 1, \frac{q C}{c} \right) \right) \ell(w + \delta(S))

    where :math:`\delta_k` is client k's update, r the `clip_ratio`, :math:`n_k` the examples that
    it claims, S the clients still in, w the global model, :math:`\ell` the loss on the server's
    examples among the c of the C classes that they have, and q the `confirm`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import Sentinel
    >>> from fedguard.updates import ClientUpdates
    >>> honest = [[1.0, 0.0], [0.9, 0.3], [1.1, -0.3], [1.0, 0.2], [0.8, 0.1]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor([*honest, *[[-1.0, 0.0]] * 3]))
    >>> Sentinel().decide(updates).reasons[7]
    'one of 3 near-identical updates'
    """

    traits = RobustStrategy.traits.but(
        server_data="labelled", server_model=True, latent=True, tasks=frozenset({"classification"})
    )

    def __init__(
        self,
        *,
        margin: float = 0.1,
        confirm: float = 0.06,
        evidence: float = 4.0,
        trigger_margin: float = 0.15,
        trigger_budget: float = 0.02,
        **views: Any,
    ) -> None:
        super().__init__(**views)
        check_number("evidence", evidence, at_least=0)
        check_number("margin", margin, at_least=0, below=1)
        check_number("confirm", confirm, at_least=0, at_most=1)
        check_number("trigger_margin", trigger_margin, at_least=0, below=1)
        check_number("trigger_budget", trigger_budget, above=0, at_most=1)
        self.margin = margin
        self.confirm = confirm
        self.evidence = evidence
        self.trigger_margin = trigger_margin
        self.trigger_budget = trigger_budget

    def left_out(self) -> list[str]:
        """Return that no patch is searched for, and why, where that is so."""
        return search_left_out(self.tools, self.trigger_margin, self.trigger_budget)

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Verify on the examples and average what remains; see `RobustStrategy.combine`."""
        state, _ = self._seen(updates)
        if self.tools is None:
            return self._aggregate(state, claimed_shares(updates, CLAIM_CAP))
        verification = Verification(
            self.tools,
            state,
            margin=self.margin,
            trigger_margin=self.trigger_margin,
            trigger_budget=self.trigger_budget,
            aux_samples=self.aux_samples,
            memory=self._patches,
            evidence=self.evidence,
            confirm=self.confirm,
        )
        return self._aggregate(state, verification.run())
