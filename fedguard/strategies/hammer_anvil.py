"""Hammer and anvil: an outlier rule, then clipped repair of the aggregate, in every round."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fedguard.errors import check_assumed_malicious, check_choice, check_number
from fedguard.randomness import SERVER, generator, stream_seed
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.flame import FLAME
from fedguard.strategies.krum import Krum, MultiKrum
from fedguard.strategies.multi_metrics import MultiMetrics
from fedguard.strategies.toolkit.averaging import clip_factors, median
from fedguard.strategies.toolkit.distances import row_norms, shared_norms
from fedguard.strategies.toolkit.server_training import check_training, require_tools
from fedguard.updates import ClientUpdates, Verdict

RULES = ("krum", "multi-krum", "flame", "multi-metrics")
"""Outlier rules that the repair may follow."""


def cyclic_rate(step: int, steps: int, low: float, high: float, cycles: int) -> float:
    """Return the learning rate of a step from 0: from `low` up to `high` and back, `cycles` times.

    ``low + (high - low) (1 - cos(2 pi cycles (step + 1/2) / steps)) / 2``
    """
    turn = 2.0 * math.pi * cycles * (step + 0.5) / max(steps, 1)
    return low + (high - low) * 0.5 * (1.0 - math.cos(turn))


class HammerAnvil(RobustStrategy):
    r"""Let an outlier rule choose, then fine-tune the aggregate on the server's rows, clipped.

    1. take the delta of the outlier rule;
    2. train the model with it by `server_epochs` passes of SGD over the server's rows, with a rate
       that climbs to `high_lr` and falls to `low_lr` in two cycles;
    3. add the change by that training, clipped.

    A reading of Hammer and Anvil, "Hammer and Anvil: A Principled Defense Against Backdoors in
    Federated Learning", arXiv 2509.08089, 2025, from its abstract: an outlier rule stops updates
    far from the honest, removal stops those near them, and either alone leaves a gap. The schedule
    of the rate and the size of the clip are ours. Buffers such as BatchNorm statistics are left as
    the rule has them. A repair that leaves the finite numbers is not applied.

    Parameters
    ----------
    outlier_rule : str
        ``"krum"``, ``"multi-krum"``, ``"flame"`` or ``"multi-metrics"``.
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5, for Krum and Multi-Krum.
    server_epochs, server_batch_size : int, int
        Passes over the server's rows, at least 1; rows per step, at least 2.
    low_lr, high_lr : float, float
        Smallest and largest rate, above 0; the largest not below the smallest.
    repair_radius : float
        c > 0, largest change by the repair in median norms of the clients' updates.

    Notes
    -----
    .. math::
       \delta = d + r \min\left( 1, \frac{c S}{\lVert r \rVert} \right), \qquad
       S = \operatorname{med}_k \lVert \delta_k \rVert

    where d is the outlier rule's aggregate of the updates :math:`\delta_k`, r how far the server's
    training moves w + d, w the global model, and c the `repair_radius`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.layout import ParameterLayout
    >>> from fedguard.strategies import HammerAnvil
    >>> from fedguard.updates import ClientUpdates
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False))
    >>> server_data = torch.ones(4, 1), torch.zeros(4, dtype=torch.int64)
    >>> updates = ClientUpdates.from_matrix(
    ...     torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 90.0]]),
    ...     layout=ParameterLayout.from_module(model),
    ... )
    >>> rule = HammerAnvil(model=model, server_data=server_data, latent_layer="0")
    >>> verdict = rule.decide(updates)
    >>> [round(value, 2) for value in verdict.delta.tolist()]
    [1.08, -0.08]
    >>> sorted(verdict.reasons)
    [3]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust"})
    traits = RobustStrategy.traits.but(blocks="rows", server_data="labelled", server_model=True)

    def __init__(
        self,
        *,
        outlier_rule: Literal["krum", "multi-krum", "flame", "multi-metrics"] = "multi-krum",
        assumed_malicious: float = 0.25,
        server_epochs: int = 6,
        server_batch_size: int = 32,
        low_lr: float = 0.001,
        high_lr: float = 0.1,
        repair_radius: float = 0.5,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_choice("outlier_rule", outlier_rule, RULES)
        check_assumed_malicious(assumed_malicious)
        check_training(server_epochs, server_batch_size, high_lr)
        check_number("low_lr", low_lr, above=0.0)
        check_number("high_lr", high_lr, at_least=low_lr)
        check_number("repair_radius", repair_radius, above=0.0)
        self.rule = _rule(outlier_rule, assumed_malicious, self.seed)
        self.server_epochs = server_epochs
        self.server_batch_size = server_batch_size
        self.low_lr = low_lr
        self.high_lr = high_lr
        self.repair_radius = repair_radius

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the rule's delta and the clipped repair; see `RobustStrategy.combine`."""
        chosen = self.rule.combine(updates)
        change = self._repair(updates, chosen.delta)
        bound = self.repair_radius * median(shared_norms(updates))
        change *= clip_factors(row_norms(change[None, :]), bound).to(change.dtype)
        delta = chosen.delta.clone()
        delta[: len(change)] += change
        return Verdict(delta, chosen.weights, chosen.scores, chosen.reasons)

    def _repair(self, updates: ClientUpdates, delta: Tensor) -> Tensor:
        """Return the (T,) change of the aggregate's parameters by fine-tuning; 0 if it diverges."""
        tools, layout = require_tools(self), updates.layout
        start = updates.global_vector + delta
        layout.load(tools.model, start)
        tools.model.train()
        order = generator(self.seed, updates.server_round, SERVER, "repair batches")
        device = tools.x.device
        with torch.enable_grad(), torch.random.fork_rng([] if device.type == "cpu" else [device]):
            torch.manual_seed(stream_seed(self.seed, updates.server_round, SERVER, "repair noise"))
            self._descend(order)
        tools.model.eval()
        tools.model.zero_grad(set_to_none=True)
        end = layout.flatten(tools.model.state_dict())
        change = (end - start)[: layout.num_trainable]
        return change if bool(torch.isfinite(change).all()) else torch.zeros_like(change)

    def _descend(self, order: torch.Generator) -> None:
        tools = require_tools(self)
        optimiser = torch.optim.SGD(tools.model.parameters(), lr=self.low_lr)
        per_epoch = math.ceil(len(tools.y) / self.server_batch_size)
        step, steps = 0, per_epoch * self.server_epochs
        for _ in range(self.server_epochs):
            shuffled = torch.randperm(len(tools.y), generator=order).to(tools.x.device)
            for rows in torch.split(shuffled, self.server_batch_size):
                rate = cyclic_rate(step, steps, self.low_lr, self.high_lr, cycles=2)
                optimiser.param_groups[0]["lr"] = rate
                step += 1
                if len(rows) < 2:  # BatchNorm cannot train on one row
                    continue
                optimiser.zero_grad()
                losses = tools.task.losses(tools.model(tools.x[rows]), tools.y[rows])
                torch.autograd.backward(losses.mean())
                optimiser.step()


def _rule(name: str, assumed_malicious: float, seed: int) -> RobustStrategy:
    if name == "krum":
        return Krum(assumed_malicious=assumed_malicious, seed=seed)
    if name == "multi-krum":
        return MultiKrum(assumed_malicious=assumed_malicious, seed=seed)
    return FLAME(seed=seed) if name == "flame" else MultiMetrics(seed=seed)
