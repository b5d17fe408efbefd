"""Adaptive attack on GeminiGuard's two views, model weights and latent space."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import (
    centred_blocks,
    centred_gram,
    gram_distances,
    norm,
    send,
    visible_updates,
)
from fedguard.attacks.toolkit.rehearsal import Rehearsal, line_search
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.layout import ParameterLayout
from fedguard.updates import ClientUpdates


class AdaptiveGemini(Attack):
    r"""Shift the coalition's honest updates together, where neither view looks.

    Every member moves against the honest mean on a set of coordinates; how far, and on which set,
    is searched on a copy of the deployed rule:

    1. model-weight view: members keep the distances of honest updates among each other, so that
       they are no tight cluster and no duplicates; gamma goes up to `stretch` times the bound
       that keeps each of them within the diameter of the visible honest updates;
    2. latent view: one of the two sets of coordinates tried is the output layer alone, which
       comes after the penultimate layer and leaves its activations as they were;
    3. the other set is the whole model; the better one is sent.

    A reading: "Two Heads Are Better than One" (GeminiGuard, arXiv 2503.23288, 2025) reports an
    adaptive attack whose text is not public. Where the rule cannot be copied gamma is the bound
    of step 1 on the whole model. How a round is rehearsed is told at `Rehearsal`.

    Parameters
    ----------
    stretch : float
        How far beyond the bound of the weight view the search goes, at least 1.
    evaluations : int
        Rehearsals per round and set of coordinates, at least 1.

    Notes
    -----
    .. math::
       d_a' = d_a + \gamma_p p, \qquad \gamma_p = \operatorname{argmax}_{0 < \gamma \le s
       \bar{\gamma}(p)} \left\langle R(d_1, \ldots, d_h, d_1 + \gamma p, \ldots) - \bar{d},
       \frac{p}{\lVert p \rVert} \right\rangle

    .. math::
       \bar{\gamma}(p) = \operatorname{mean}_a \max \left\{ \gamma : \max_i \lVert d_a + \gamma p -
       d_i \rVert \le \max_{i, j} \lVert d_i - d_j \rVert \right\}

    where :math:`d_a` are the coalition's honest updates, :math:`d_i` the visible ones, p is minus
    the mean of these on the whole model or on its output layer, whichever moves the copied rule R
    further against that mean, :math:`d_1, \ldots, d_h` are others' updates with the mean
    :math:`\bar{d}`, and s is the `stretch`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.adaptive_gemini import AdaptiveGemini
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[2.0, 0.0], [4.0, 0.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[3.0, 0.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = AdaptiveGemini()
    >>> attack.craft(coalition, seen).tolist()
    [[2.0, 0.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "aggregate"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="white", stealth="hidden", variability="dynamic"
    )

    def __init__(self, *, stretch: float = 8.0, evaluations: int = 10) -> None:
        check_number("stretch", stretch, at_least=1.0)
        check_number("evaluations", evaluations, at_least=1)
        self.stretch = stretch
        self.evaluations = evaluations

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) shifted deltas; see `Attack.craft`."""
        if not len(coalition):
            return coalition.deltas
        rows = visible_updates(coalition, knowledge).trainable
        mean = rows.mean(dim=0)
        if not norm(mean) > 0.0:
            return coalition.deltas
        rehearse = Rehearsal(coalition, knowledge)
        if knowledge.aggregate is None:
            shift = -mean * diameter_bound(coalition.trainable, rows, -mean)
            return send(coalition, coalition.trainable + shift)
        shifts = [
            self._best_shift(coalition, rows, push, rehearse)
            for push in _pushes(mean, coalition.layout)
        ]
        best = max(shifts, key=lambda shift: _gain(coalition, shift, mean, rehearse))
        return send(coalition, coalition.trainable + best)

    def _best_shift(
        self, coalition: ClientUpdates, rows: Tensor, push: Tensor, rehearse: Rehearsal
    ) -> Tensor:
        largest = self.stretch * diameter_bound(coalition.trainable, rows, push)
        if not largest > 0.0:
            return torch.zeros_like(push)
        gamma = line_search(
            lambda factor: _gain(coalition, factor * push, -push, rehearse),
            largest,
            self.evaluations,
        )
        return gamma * push


def _pushes(mean: Tensor, layout: ParameterLayout) -> list[Tensor]:
    """Return minus the mean on the whole model and on its output layer alone, if not zero."""
    head = torch.zeros_like(mean)
    start = layout.offsets[output_layer(layout)]
    head[start:] = -mean[start:]
    return [push for push in (-mean, head) if norm(push) > 0.0]


def output_layer(layout: ParameterLayout) -> int:
    """Return the index of the first tensor of the last trainable layer.

    Tensors belong to one layer if their names agree up to the last dot, such as ``head.weight``
    and ``head.bias``.
    """
    names = layout.names[: layout.num_trainable_tensors]
    last = names[-1].rpartition(".")[0]
    first = len(names) - 1
    while last and first > 0 and names[first - 1].rpartition(".")[0] == last:
        first -= 1
    return first


def _gain(coalition: ClientUpdates, shift: Tensor, mean: Tensor, rehearse: Rehearsal) -> float:
    """Return how far the rule's answer moves against `mean`, in units of the weights."""
    moved = rehearse(coalition.trainable + shift) - rehearse.mean
    return -float(moved.to(torch.float64) @ mean.to(torch.float64)) / norm(mean)


def diameter_bound(members: Tensor, rows: Tensor, push: Tensor) -> float:
    """Return the largest common gamma that keeps members within the rows' diameter, on average.

    For each member ``max gamma: max_i |d_a + gamma p - d_i| <= max_ij |d_i - d_j|``; the mean
    over members. Where there is no diameter (one row, or equal rows) the mean row's norm over
    that of the push.

    Parameters
    ----------
    members : Tensor
        (F, T) updates that are to be shifted.
    rows : Tensor
        (K, T) updates that they must stay close to.
    push : Tensor
        (T,) direction p, not zero.
    """
    size = norm(push) ** 2
    together = torch.cat([members, rows])
    count = len(members)
    squared = gram_distances(centred_gram(together))
    radius = squared[count:, count:].max()
    if not radius > 0.0:
        return norm(rows.mean(dim=0)) / norm(push)
    along = together.new_zeros(len(together), dtype=torch.float64)
    for columns, block in centred_blocks(together):
        along += block @ push[columns].to(torch.float64)
    half = along[:count, None] - along[None, count:]
    slack = (radius - squared[:count, count:]).clamp(min=0.0)
    roots = (half.square() + size * slack).sqrt() - half
    return float((roots / size).min(dim=1).values.mean())
