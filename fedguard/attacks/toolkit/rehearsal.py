"""Rehearsal: what would the deployed rule make of this, asked before it is sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedguard.attacks.base import Knowledge
from fedguard.attacks.toolkit.crafting import benign_updates, norm, send
from fedguard.updates import ClientUpdates


class Rehearsal:
    """The deployed rule on a round as the attacker imagines it.

    The cohort consists of the visible honest updates of others and the coalition's crafted ones.
    With partial knowledge the coalition's own honest updates stand in for those of others, and as
    many crafted updates join as keep the coalition's share of the cohort. Where the rule cannot
    be copied the plain mean takes its place.

    Parameters
    ----------
    coalition : ClientUpdates
        The coalition's honest updates.
    knowledge : Knowledge
        What the attacker sees.
    """

    def __init__(self, coalition: ClientUpdates, knowledge: Knowledge) -> None:
        self.coalition = coalition
        self.others = benign_updates(coalition, knowledge)
        self.mean = self.others.trainable.mean(dim=0)
        self._aggregate = knowledge.aggregate or (lambda updates: updates.deltas.mean(dim=0))
        self._verdicts = knowledge.verdicts
        self._crafted_rows = self._number_of_crafted(knowledge)
        self._server_round = knowledge.server_round

    def _number_of_crafted(self, knowledge: Knowledge) -> int:
        size = len(self.coalition)
        if not set(self.others.node_ids) & set(self.coalition.node_ids):
            return size
        honest = max(knowledge.cohort_size - knowledge.num_malicious, 1)
        share = round(len(self.others) * knowledge.num_malicious / honest)
        return min(max(share, 1), size)

    def _names(self, count: int) -> Sequence[int]:
        """Return the nodes that craft: the coalition, or new ones where it stands for others."""
        others = self.others.node_ids
        if not set(others) & set(self.coalition.node_ids):
            return self.coalition.node_ids[:count]
        first_free = max(others, default=-1) + 1
        return range(first_free, first_free + count)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return the (T,) trainable part of the rule's delta, given (T,) or (F, T) vectors."""
        return self._aggregate(self._cohort(vectors, 0))[: self.coalition.layout.num_trainable]

    def ahead(self, vectors: Sequence[Tensor]) -> Tensor:
        """Return the (T,) sum of the rule's deltas over rounds in a row, others' updates as now.

        Parameters
        ----------
        vectors : sequence of Tensor
            (T,) or (F, T) of each round.
        """
        rounds = [self._cohort(each, later) for later, each in enumerate(vectors)]
        if self._verdicts is None:
            deltas = [self._aggregate(cohort) for cohort in rounds]
        else:
            deltas = [verdict.delta for verdict in self._verdicts(rounds)]
        return torch.stack(deltas).sum(dim=0)[: self.coalition.layout.num_trainable]

    def kept(self, vectors: Tensor) -> float:
        """Return the share of the others' updates that the rule accepts: all without a copy."""
        if self._verdicts is None:
            return 1.0
        weights = self._verdicts([self._cohort(vectors, 0)])[0].weights[: len(self.others)]
        return float((weights > 0.0).sum()) / max(len(self.others), 1)

    def _cohort(self, vectors: Tensor, later: int) -> ClientUpdates:
        """Return the round as imagined, a number of rounds later, others first."""
        crafted = send(self.coalition, vectors)[: self._crafted_rows]
        claims = self.coalition.num_examples[: self._crafted_rows]
        return ClientUpdates.from_matrix(
            torch.cat([self.others.deltas, crafted]),
            torch.cat([self.others.num_examples, claims]),
            [*self.others.node_ids, *self._names(len(crafted))],
            self.coalition.global_vector,
            self.coalition.layout,
            server_round=self._server_round + later,
        )


def line_search(damage: Callable[[float], float], largest: float, evaluations: int) -> float:
    """Return the factor in (0, largest] that does most damage, within a number of evaluations.

    Half of the evaluations go through ``largest, largest / 2, largest / 4, ...``; the others
    narrow the interval around the best of them by golden section. The smallest of equal factors
    wins, so that no more is sent than helps.

    Parameters
    ----------
    damage : callable
        What to maximise; a value that is not finite counts as none.
    largest : float
        Upper end, above 0.
    evaluations : int
        Number of calls, at least 1.
    """
    tried: dict[float, float] = {}

    def attempt(factor: float) -> float:
        if factor not in tried:
            value = damage(factor)
            tried[factor] = value if math.isfinite(value) else -math.inf
        return tried[factor]

    coarse = max(1, (evaluations + 1) // 2)
    best = max((largest * 0.5**k for k in reversed(range(coarse))), key=attempt)
    low, high = best / 2.0, min(best * 2.0, largest)
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    while len(tried) + 2 <= evaluations and high - low > 1e-6 * high:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if attempt(left) >= attempt(right):
            high = right
        else:
            low = left
    return max(sorted(tried), key=tried.__getitem__)


def send_furthest(
    coalition: ClientUpdates,
    knowledge: Knowledge,
    vector: Callable[[float], Tensor],
    largest: float,
    evaluations: int,
) -> Tensor:
    """Return the (F, D) deltas with the vector that moves the rehearsed rule furthest.

    ``vector(x*)`` with ``x* = argmax |R(honest, vector(x), ...) - mu|`` over 0 < x <= `largest`,
    mu the mean of the honest updates that the attacker sees; see `Rehearsal` and `line_search`.

    Parameters
    ----------
    coalition, knowledge : ClientUpdates, Knowledge
        As in `Attack.craft`.
    vector : callable
        Maps a factor to the (T,) vector that every member would send.
    largest : float
        Largest factor, above 0.
    evaluations : int
        Rehearsals, at least 1.
    """
    rehearse = Rehearsal(coalition, knowledge)
    factor = line_search(
        lambda tried: norm(rehearse(vector(tried)) - rehearse.mean), largest, evaluations
    )
    return send(coalition, vector(factor))
