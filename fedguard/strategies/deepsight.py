"""DeepSight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import ConfigurationError, check_number
from fedguard.layout import ParameterLayout
from fedguard.randomness import SERVER, generator
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import (
    average,
    clip_factors,
    equal_weights,
    median,
    rejections,
)
from fedguard.strategies.toolkit.density import density_clusters
from fedguard.strategies.toolkit.distances import (
    cosine_distances,
    gram_matrix,
    shared_norms,
    squared_distances,
)
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.strategies.toolkit.server_training import require_tools
from fedguard.updates import ClientUpdates, Verdict


@dataclass(frozen=True)
class OutputLayer:
    """Where the last linear layer lies in the vector: weight (C, H), then bias (C,)."""

    weight: slice
    bias: slice
    num_classes: int


def output_layer(layout: ParameterLayout, num_classes: int) -> OutputLayer:
    """Return the last trainable (C, H) tensor that a (C,) bias follows.

    Raises
    ------
    ConfigurationError
        If the model has none.
    """
    for at in reversed(range(layout.num_trainable_tensors - 1)):
        shape, after = layout.shapes[at], layout.shapes[at + 1]
        if len(shape) == 2 and shape[0] == num_classes and after == (num_classes,):
            starts = layout.offsets
            return OutputLayer(
                slice(starts[at], starts[at + 1]),
                slice(starts[at + 1], starts[at + 2]),
                num_classes,
            )
    raise ConfigurationError("model", "this model", "one whose last layer is linear with a bias")


def update_energies(updates: ClientUpdates, layer: OutputLayer) -> Tensor:
    """Return (K, C) normalised update energies: each class's share of the output layer's change.

    ``E_c = |delta b_c| + sum_h |delta W_ch|``, ``NEUP_c = E_c^2 / sum E^2``; uniform where nothing
    changed.
    """
    weight = updates.deltas[:, layer.weight].to(torch.float64)
    energy = weight.view(len(updates), layer.num_classes, -1).abs().sum(dim=2)
    energy = energy + updates.deltas[:, layer.bias].to(torch.float64).abs()
    squares = energy.square()
    total = squares.sum(dim=1, keepdim=True)
    equal = torch.full_like(squares, 1.0 / layer.num_classes)
    return torch.where(total > 0, squares / total.clamp(min=1e-300), equal)


def threshold_exceedings(energies: Tensor) -> Tensor:
    """Return (K,) how many classes exceed ``max(0.01, 1/C)`` of the client's largest energy."""
    factor = max(0.01, 1.0 / energies.shape[1])
    return (energies > factor * energies.amax(dim=1, keepdim=True)).sum(dim=1).double()


@torch.no_grad()
def division_differences(tools: ServerTools, updates: ClientUpdates, x: Tensor) -> Tensor:
    """Return (K, C) float64 ratios of client to global model's probabilities, mean over inputs.

    A model whose output is not finite gives NaN. The tools' model is overwritten.
    """

    def probabilities(vector: Tensor) -> Tensor:
        updates.layout.load(tools.model, vector)
        return torch.softmax(tools.model(x).to(torch.float64), dim=1)

    tools.model.eval()
    base = probabilities(updates.global_vector).clamp(min=1e-12)
    found = [
        (probabilities(updates.global_vector + row) / base).mean(dim=0) for row in updates.deltas
    ]
    return torch.stack(found)


def _apart(labels: Tensor) -> Tensor:
    """Return (K, K) 0 for clients of one cluster, 1 otherwise; noise belongs to nobody."""
    together = (labels[:, None] == labels[None, :]) & (labels[:, None] >= 0)
    return (~together).to(torch.float64).fill_diagonal_(0.0)


class DeepSight(RobustStrategy):
    r"""Cluster clients by what their updates do to the output layer; drop suspicious clusters.

    1. NEUP: share of each class in the change of the output layer; a client whose number of
       classes above the threshold is at most half the median is suspicious (it trained on few);
    2. DDif: mean ratio of client and global model's probabilities on random inputs;
    3. HDBSCAN on NEUP, on DDif for each seed and on the cosine distance of the bias changes;
       the average of "in different clusters" is clustered once more;
    4. drop clusters with a third or more suspicious clients; mean of the rest, clipped to the
       median norm.

    Rieger et al., "DeepSight: Mitigating Backdoor Attacks in Federated Learning Through Deep Model
    Inspection", NDSS 2022. Noise points of the clustering are clusters of their own. Models whose
    output is not finite are rejected. Where nobody is left the model stays.

    Parameters
    ----------
    random_inputs : int
        Random inputs per seed, at least 1; the paper uses 20,000.
    input_seeds : int
        Number of sets of random inputs, at least 1.

    Notes
    -----
    .. math::
       \mathrm{NEUP}_{kc} = \frac{E_{kc}^2}{\sum_j E_{kj}^2}, \qquad
       E_{kc} = |\Delta b_{kc}| + \sum_h |\Delta W_{kch}|

    .. math::
       \mathrm{TE}_k = \left| \left\{ c : \mathrm{NEUP}_{kc} > \max(0.01, 1/C)
       \max_j \mathrm{NEUP}_{kj} \right\} \right|, \qquad
       \text{suspicious if } \mathrm{TE}_k \le \frac{1}{2} \operatorname{med}_j \mathrm{TE}_j

    .. math::
       \mathrm{DDif}_{kc} = \frac{1}{m} \sum_{i=1}^{m} \frac{p_c(x_i; w + \delta_k)}{p_c(x_i; w)}

    where :math:`\Delta W_k` and :math:`\Delta b_k` are client k's change of the output layer, C the
    classes, :math:`p_c` the model's probability of class c, :math:`x_i` one of m random inputs, w
    the global model and :math:`\delta_k` client k's update.

    Examples
    --------
    >>> import torch
    >>> from fedguard.layout import ParameterLayout
    >>> from fedguard.strategies import DeepSight
    >>> from fedguard.updates import ClientUpdates
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2))
    >>> server_data = torch.ones(4, 1), torch.arange(4) % 2
    >>> many, few = [1.0, -1.0, 0.5, -0.5], [4.0, 0.0, 0.5, 0.0]
    >>> updates = ClientUpdates.from_matrix(
    ...     torch.tensor([many, many, many, many, few]),
    ...     layout=ParameterLayout.from_module(model),
    ... )
    >>> rule = DeepSight(model=model, server_data=server_data, latent_layer="0")
    >>> verdict = rule.decide(updates)
    >>> verdict.scores["threshold_exceedings"].tolist()
    [2.0, 2.0, 2.0, 2.0, 1.0]
    >>> verdict.reasons
    {4: 'in a cluster of clients that trained on few classes (1)'}
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.0, -1.0, 0.5, -0.5]
    """

    traits = RobustStrategy.traits.but(
        server_model=True,
        tasks=frozenset({"classification"}),
    )
    properties: ClassVar[frozenset[str]] = frozenset({"robust"})

    def __init__(self, *, random_inputs: int = 256, input_seeds: int = 3, **base: Any) -> None:
        super().__init__(**base)
        check_number("random_inputs", random_inputs, at_least=1)
        check_number("input_seeds", input_seeds, at_least=1)
        self.random_inputs = random_inputs
        self.input_seeds = input_seeds

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the clipped mean of unsuspicious clusters; see `RobustStrategy.combine`."""
        tools = require_tools(self)
        layer = output_layer(updates.layout, tools.num_classes)
        energies = update_energies(updates, layer)
        exceedings = threshold_exceedings(energies)
        suspicious = exceedings <= median(exceedings) / 2.0
        differences = [
            division_differences(tools, updates, self._noise(tools, updates, at))
            for at in range(self.input_seeds)
        ]
        finite = torch.stack([part.isfinite().all(dim=1) for part in differences]).all(dim=0)
        labels = torch.full((len(updates),), -1)
        views = [energies, *differences, updates.deltas[:, layer.bias]]
        labels[finite] = _clusters([view[finite] for view in views])
        keep = _accepted(labels, suspicious) & finite
        weights = equal_weights(keep)
        norms = shared_norms(updates)
        delta = average(updates, weights, clip_factors(norms, median(norms)))
        reasons = rejections(
            updates,
            weights,
            lambda row: (
                f"in a cluster of clients that trained on few classes ({exceedings[row]:.0f})"
                if bool(finite[row])
                else "the model's output is not finite"
            ),
        )
        scores = {"threshold_exceedings": exceedings, "cluster": labels.double()}
        return Verdict(delta, weights, scores, reasons)

    def _noise(self, tools: ServerTools, updates: ClientUpdates, at: int) -> Tensor:
        stream = generator(self.seed, updates.server_round, SERVER, f"random inputs {at}")
        shape = (self.random_inputs, *tools.x.shape[1:])
        return torch.rand(shape, generator=stream).to(tools.x)


def _clusters(views: list[Tensor]) -> Tensor:
    """Return labels from NEUP, DDif per seed and bias changes, each (K, C)."""
    energies, *differences, biases = views
    if len(energies) == 0:
        return torch.zeros(0, dtype=torch.int64)

    def euclidean(view: Tensor) -> Tensor:
        return _apart(density_clusters(squared_distances(view).sqrt(), 2))

    by_differences = torch.stack([euclidean(view) for view in differences]).mean(dim=0)
    by_bias = _apart(density_clusters(cosine_distances(gram_matrix(biases)), 2))
    merged = (by_differences + euclidean(energies) + by_bias) / 3.0
    return density_clusters(merged, 2)


def _accepted(labels: Tensor, suspicious: Tensor) -> Tensor:
    """Return the mask of clients in clusters of which less than a third is suspicious."""
    keep = ~suspicious
    for label in set(labels[labels >= 0].tolist()):
        members = labels == label
        keep[members] = bool(suspicious[members].double().mean() < 1.0 / 3.0)
    return keep
