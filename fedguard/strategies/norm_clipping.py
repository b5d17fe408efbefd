"""Norm clipping, with optional weak differential privacy."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from fedguard.errors import check_number
from fedguard.randomness import SERVER, numpy_generator
from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.toolkit.averaging import average, clip_factors, median
from fedguard.strategies.toolkit.distances import shared_norms
from fedguard.updates import ClientUpdates, Verdict


def add_noise(delta: Tensor, std: float, updates: ClientUpdates, seed: int) -> None:
    """Add N(0, std^2) to the trainable part of `delta`, in place, from the round's own stream."""
    if std > 0.0:
        part = delta[: updates.layout.num_trainable]
        stream = numpy_generator(seed, updates.server_round, SERVER, "noise")
        part += part.new_tensor(stream.normal(0.0, std, len(part)))


class NormClipping(RobustStrategy):
    r"""Scale updates down to a common norm, average them and, if wanted, add noise.

    Sun et al., "Can You Really Backdoor Federated Learning?", 2019. Every client weighs the same.
    The noise is "weak" differential privacy: too little for a guarantee, enough to blur a
    backdoor.

    Parameters
    ----------
    max_norm : float, optional
        S > 0; the median norm of the round if left out.
    noise_std : float
        sigma >= 0, in units of one parameter; the paper uses 0.025.

    Notes
    -----
    .. math::
       \delta = \frac{1}{n} \sum_{k=1}^{n} \delta_k
       \min\left( 1, \frac{S}{\lVert \delta_k \rVert} \right) + \mathcal{N}(0, \sigma^2 I)

    where :math:`\delta_k` is client k's update, n the clients, S the `max_norm` and :math:`\sigma`
    the `noise_std`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import NormClipping
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 0.0], [0.0, 2.0], [60.0, 80.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = NormClipping(max_norm=2.0).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [0.733, 1.2]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "scale"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def __init__(
        self, *, max_norm: float | None = None, noise_std: float = 0.0, **base: Any
    ) -> None:
        super().__init__(**base)
        if max_norm is not None:
            check_number("max_norm", max_norm, above=0.0)
        check_number("noise_std", noise_std, at_least=0.0)
        self.max_norm = max_norm
        self.noise_std = noise_std

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean of the clipped updates; see `RobustStrategy.combine`."""
        norms = shared_norms(updates)
        bound = median(norms) if self.max_norm is None else self.max_norm
        weights = uniform(len(updates))
        delta = average(updates, weights, clip_factors(norms, bound))
        add_noise(delta, self.noise_std, updates, self.seed)
        return Verdict(delta, weights, {"norm": norms})
