"""FLARE: trust by the latent-space representations of client models."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import TIE, average, clip_factors, median, rejections
from fedguard.strategies.toolkit.distances import shared_norms
from fedguard.strategies.toolkit.latent import client_activations, squared_mmd
from fedguard.strategies.toolkit.server_training import require_tools
from fedguard.updates import ClientUpdates, Verdict


def neighbour_votes(distances: Tensor) -> Tensor:
    """Return how many clients count each client among their ``floor(K / 2)`` nearest others.

    Clients that tie at the end of a voter's list share what is left of its votes, so that the
    order of clients decides nothing.

    Parameters
    ----------
    distances : Tensor
        (K, K), diagonal not read.
    """
    count = len(distances)
    if count == 1:
        return torch.ones(1, dtype=torch.float64)
    wanted = max(count // 2, 1)
    others = distances.clone().fill_diagonal_(float("inf"))
    limit = others.kthvalue(wanted, dim=1, keepdim=True).values
    sure = others < limit * (1.0 - TIE)
    tied = (others <= limit * (1.0 + TIE)) & ~sure
    share = (wanted - sure.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True).clamp(min=1)
    return (sure.to(torch.float64) + share * tied).sum(dim=0)


class FLARE(RobustStrategy):
    r"""Weigh clients by how many others find their latent representations near.

    1. R_k: penultimate-layer activations of client k's model on the server's examples;
    2. squared maximum mean discrepancy between every two R;
    3. votes c_k: how many clients have k among their ``floor(n / 2)`` nearest;
    4. weights of the mean by a softmax of the votes.

    Wang et al., "FLARE: Defending Federated Learning against Model Poisoning Attacks via Latent
    Space Representations", AsiaCCS 2022. Departures: votes exist for two and three clients and
    are shared among ties, so alpha is never NaN and never depends on the order of clients; one
    kernel width serves all pairs; examples of all classes are used; models whose activations are
    not finite are rejected; and updates are clipped to the median norm, because every client
    keeps some weight. Votes can be shared among colluders: a group of close copies still gains
    weight.

    Parameters
    ----------
    temperature : float
        tau > 0; small is strict.
    aux_samples : int
        Examples of the server used, at least 2.
    clip : bool
        Whether updates are clipped to the median norm of the round.

    Notes
    -----
    .. math::
       \delta = \sum_k \alpha_k \delta_k \min\left( 1, \frac{\operatorname{med}_j \lVert \delta_j
       \rVert}{\lVert \delta_k \rVert} \right), \qquad \alpha_k = \frac{\exp(c_k / (\tau
       \bar{c}))}{\sum_j \exp(c_j / (\tau \bar{c}))}

    where :math:`\delta_k` is client k's update (without the minimum where `clip` is off),
    :math:`c_k` how many clients have k among their :math:`\lfloor n / 2 \rfloor` nearest by squared
    MMD of the activations, :math:`\bar{c}` the mean over clients, and :math:`\tau` the
    `temperature`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.layout import ParameterLayout
    >>> from fedguard.strategies import FLARE
    >>> from fedguard.updates import ClientUpdates
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 2))
    >>> server_data = torch.linspace(1, 2, 10)[:, None], torch.arange(10) % 2
    >>> updates = ClientUpdates.from_matrix(
    ...     torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]] * 3 + [[-1.0, 0.0, 0.0, 0.0, 0.0]]),
    ...     layout=ParameterLayout.from_module(model),
    ... )
    >>> rule = FLARE(model=model, server_data=server_data, latent_layer="0")
    >>> verdict = rule.decide(updates)
    >>> [round(value, 3) for value in verdict.weights.tolist()]
    [0.306, 0.306, 0.306, 0.081]
    """

    traits = RobustStrategy.traits.but(
        blocks="rows",
        server_data="unlabelled",
        server_model=True,
        latent=True,
        tasks=frozenset({"classification"}),
    )
    properties: ClassVar[frozenset[str]] = frozenset({"robust"})

    def __init__(
        self, *, temperature: float = 1.0, aux_samples: int = 200, clip: bool = True, **base: Any
    ) -> None:
        super().__init__(**base)
        check_number("temperature", temperature, above=0.0)
        check_number("aux_samples", aux_samples, at_least=2)
        self.temperature = temperature
        self.aux_samples = aux_samples
        self.clip = clip

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean weighted by votes; see `RobustStrategy.combine`."""
        activations, finite = self._activations(updates)
        votes = torch.zeros(len(updates), dtype=torch.float64)
        weights = torch.zeros(len(updates), dtype=torch.float64)
        if bool(finite.any()):
            usable = activations if bool(finite.all()) else activations[finite]
            votes[finite] = neighbour_votes(squared_mmd(usable))
            mean = votes[finite].mean()
            weights[finite] = torch.softmax(votes[finite] / (self.temperature * mean), dim=0)
        norms = shared_norms(updates)
        factors = clip_factors(norms, median(norms)) if self.clip else None
        reasons = rejections(updates, weights, lambda row: "activations are not finite")
        delta = average(updates, weights, factors)
        return Verdict(delta, weights, {"votes": votes, "trust_score": weights}, reasons)

    def _activations(self, updates: ClientUpdates) -> tuple[Tensor, Tensor]:
        """Return (K, m, p) activations and the (K,) mask of the usable ones."""
        tools = require_tools(self)
        x = tools.x[_spread(tools.y, self.aux_samples)]
        models = (updates.global_vector + row for row in updates.deltas)
        found = client_activations(tools, updates.layout, models, x)
        flat = found.flatten(1)
        return found.flatten(2), flat.abs().amax(dim=1) < 1e15  # False for NaN as well


def _spread(labels: Tensor, wanted: int) -> Tensor:
    """Return the positions of at most `wanted` examples, as even over the classes as can be."""
    rank = torch.zeros_like(labels)
    for label in set(labels.tolist()):
        members = labels == label
        rank[members] = torch.arange(int(members.sum()), device=labels.device)
    return rank.argsort(stable=True)[:wanted].sort().values
