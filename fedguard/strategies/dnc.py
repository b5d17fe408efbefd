"""Divide and conquer (DnC)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from fedguard.errors import check_assumed_malicious, check_number
from fedguard.randomness import SERVER, numpy_generator
from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.toolkit.averaging import average, equal_weights, lowest, rejections
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.distances import squared_distances
from fedguard.strategies.toolkit.spectra import top_projections
from fedguard.updates import ClientUpdates, Verdict


class DnC(RobustStrategy):
    r"""Leave out clients that stand out along the direction of largest spread, several times.

    In each of `iterations` passes: draw `sub_dim` coordinates, centre the updates on them, score
    them by their projection on the top right singular vector, and leave out the ``c f`` highest.
    Average the clients that no pass left out.

    Shejwalkar and Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and
    Defenses for Federated Learning", NDSS 2021. Clients whose score ties with the last kept one
    are kept. Where no client survives all passes, those that survived most are averaged.

    A decoy blinds the paper's rule, so it declares ``"decoy-exempt"``: a pass looks along one
    direction, and one client far enough out owns it. Attackers at right angles to the decoy then
    look like anybody else. `CAF` and `SMEA` look again once the furthest has left.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up.
    iterations : int
        Passes, at least 1.
    sub_dim : int
        Coordinates drawn in each pass, at least 1.
    filter_factor : float
        c > 0; at least one client is kept in every pass.

    Notes
    -----
    .. math::
       s_k = \langle \tilde{\delta}_k - \tilde{\mu}, v \rangle^2, \qquad
       v = \operatorname{argmax}_{\lVert u \rVert = 1} \sum_k
       \langle \tilde{\delta}_k - \tilde{\mu}, u \rangle^2

    where :math:`\tilde{\delta}_k` is client k's update on the coordinates drawn and
    :math:`\tilde{\mu}` their mean over clients; a pass keeps the :math:`n - \lceil c f \rceil`
    clients with the lowest score, n the clients and f the bound.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import DnC
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 2.0], [1.2, 2.0], [0.8, 2.3], [90.0, -90.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = DnC(assumed_malicious=0.25).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.0, 2.1]
    >>> sorted(verdict.reasons)
    [3]
    """

    properties: ClassVar[frozenset[str]] = frozenset(
        {"robust", "translation", "scale", "decoy-exempt"}
    )
    traits = RobustStrategy.traits.but(blocks="rows")

    def __init__(
        self,
        *,
        assumed_malicious: float = 0.25,
        iterations: int = 5,
        sub_dim: int = 10_000,
        filter_factor: float = 1.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_assumed_malicious(assumed_malicious)
        check_number("iterations", iterations, at_least=1)
        check_number("sub_dim", sub_dim, at_least=1)
        check_number("filter_factor", filter_factor, above=0.0)
        self.assumed_malicious = assumed_malicious
        self.iterations = iterations
        self.sub_dim = sub_dim
        self.filter_factor = filter_factor

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean of the clients that survived; see `RobustStrategy.combine`."""
        count = len(updates)
        bound = assumed_count(self.assumed_malicious, count)
        wanted = count - math.ceil(self.filter_factor * bound)
        stream = numpy_generator(self.seed, updates.server_round, SERVER, "coordinates")
        rows = updates.trainable
        survived = torch.zeros(count, dtype=torch.int64)
        score = torch.zeros(count, dtype=torch.float64)
        for _ in range(self.iterations):
            size = min(self.sub_dim, rows.shape[1])
            drawn = torch.from_numpy(stream.choice(rows.shape[1], size=size, replace=False))
            part = rows if size == rows.shape[1] else rows[:, drawn]
            _, spread = top_projections(squared_distances(part), uniform(count))
            score = torch.maximum(score, spread)
            survived += lowest(spread, wanted)
        weights = equal_weights(survived == survived.max())
        reasons = rejections(
            updates,
            weights,
            lambda row: f"left out in {self.iterations - int(survived[row])} passes",
        )
        return Verdict(average(updates, weights), weights, {"outlier_score": score}, reasons)
