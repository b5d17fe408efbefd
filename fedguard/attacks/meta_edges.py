"""Meta-gradient poisoning of a graph: the edits that hurt a trained link predictor most."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fedguard.attacks.toolkit.edge_edits import (
    Chosen,
    EdgeEdits,
    OwnGraph,
    codes,
    drawn_pairs,
    free_pairs,
)
from fedguard.attacks.toolkit.edge_gradients import Surrogate
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_choice, check_number

Objective = Literal["known-pairs", "proxy-pairs"]
Weighting = Literal["linear", "uniform"]

_HELD = 0.2


class MetaEdges(EdgeEdits):
    r"""Edit the links along the gradient of the attacker's loss over a surrogate's training.

    1. A surrogate VGAE is trained on the client's own graph from a random start.
    2. The slopes of the attacked pairs' loss at the normalised adjacency are added up over the
       epochs; first order.
    3. They are led back through the normalisation to the adjacency.
    4. The absent pairs of largest slope are added, the links of least slope removed; the attacked
       pairs are left alone.

    A reading of "Exploiting Meta-Learning-based Poisoning Attacks for Graph Link Prediction",
    arXiv 2504.06492, 2025, whose code was at hand and whose tables were not. There the
    attacked pairs are the test pairs, which the attacker knows (``known-pairs``); with
    ``proxy-pairs`` it holds a fifth of its own links and as many absent pairs back for it.
    Step 3 is ours, so is the choice of both kinds by two top-k in place of a loop, and the
    surrogate learns from the client's own rows, not from all pairs. Graphs of more than `dense`
    nodes are searched among `candidates` drawn pairs: a matrix of all pairs would not fit.

    Parameters
    ----------
    objective : str
        ``"known-pairs"`` or ``"proxy-pairs"``.
    weighting : str
        ``"linear"`` or ``"uniform"``.
    epochs : int
        Epochs of the surrogate, at least 1; 200 in the authors' code.
    surrogate_lr : float
        Learning rate of its Adam, above 0; 0.005 in the authors' code.
    dense : int
        Most nodes for which all absent pairs are searched, at least 2; memory grows with its
        square.
    candidates : int
        Absent pairs that are searched in larger graphs, at least 1.
    **frame : Any
        ``budget`` and ``edits`` of `EdgeEdits`.

    Notes
    -----
    .. math::
       G = \sum_{e=1}^{E} w_e \frac{\partial L_e}{\partial S}, \qquad
       w_e = \frac{e}{E} \text{ or } 1, \qquad S = D^{-1/2} (A + I) D^{-1/2}

    .. math::
       \frac{\partial}{\partial A_{ij}} = \frac{(G + G^\top)_{ij}}{\sqrt{d_i d_j}}
       - \frac{1}{2} \left( \frac{g_i}{d_i} + \frac{g_j}{d_j} \right), \qquad
       g_i = \sum_j (G + G^\top)_{ij} S_{ij}

    where A is the client's adjacency and :math:`d_i` the degrees of A + I, :math:`L_e` the
    cross-entropy of the attacked pairs by the surrogate's mean places in epoch e of E.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.meta_edges import MetaEdges
    >>> from fedguard.data.graph_sample import GraphSample
    >>> data = GraphSample().load(None)
    >>> attack = MetaEdges(budget=0.1, edits="add", epochs=2)
    >>> attack.meet(data)
    >>> links = int((data.y_train > 0).sum())
    >>> _, y = attack.poison(data.x_train, data.y_train, torch.Generator().manual_seed(0))
    >>> int((y > 0).sum()) - links == round(0.1 * links)
    True
    """

    tags: ClassVar[Tags | None] = Tags(
        edits="both", knowledge="white", stealth="hidden", by=("bilevel",)
    )

    def __init__(
        self,
        *,
        objective: Objective = "known-pairs",
        weighting: Weighting = "linear",
        epochs: int = 150,
        surrogate_lr: float = 0.01,
        dense: int = 4000,
        candidates: int = 200_000,
        **frame: Any,
    ) -> None:
        super().__init__(**frame)
        check_choice("objective", objective, ("known-pairs", "proxy-pairs"))
        check_choice("weighting", weighting, ("linear", "uniform"))
        check_number("epochs", epochs, at_least=1)
        check_number("surrogate_lr", surrogate_lr, above=0.0)
        check_number("dense", dense, at_least=2)
        check_number("candidates", candidates, at_least=1)
        self.objective, self.weighting = objective, weighting
        self.epochs, self.surrogate_lr = epochs, surrogate_lr
        self.dense, self.candidates = dense, candidates

    def ranked(self, own: OwnGraph, add: int, remove: int, rng: torch.Generator) -> Chosen:
        """Return the edits of steepest slope; see `EdgeEdits.ranked`."""
        edges, attacked, wanted = self._attacked(own, rng)
        if not len(attacked):
            # A part of the graph without a test pair: nothing to aim at, so nothing is edited.
            return Chosen(edges[:0], edges[:0])
        steps = torch.arange(1, self.epochs + 1) / self.epochs
        weights = steps if self.weighting == "linear" else torch.ones(self.epochs)
        pairs = None
        if own.size > self.dense:
            pairs = drawn_pairs(own, max(self.candidates, add), attacked, rng)
        surrogate = Surrogate(own, edges, attacked, wanted, self.epochs, self.surrogate_lr)
        found = surrogate.slopes(weights, rng, pairs)
        slopes = found.slopes.masked_fill(~free_pairs(own, found.pairs, attacked), -torch.inf)
        most = min(add, int(torch.isfinite(slopes).sum()))
        steep = slopes.topk(most).indices
        gone = found.links.topk(min(remove, len(edges)), largest=False).indices
        return Chosen(found.pairs[steep], edges[gone])

    def _attacked(self, own: OwnGraph, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return the links to train on, the attacked pairs and which of these are links."""
        if self.objective == "known-pairs":
            free = ~torch.isin(codes(own.edges, own.size), codes(own.known, own.size))
            return own.edges[free], own.known, own.labels
        held = max(1, round(_HELD * len(own.edges)))
        order = torch.randperm(len(own.edges), generator=rng)
        absent = own.absent[torch.randperm(len(own.absent), generator=rng)[:held]]
        attacked = torch.cat([own.edges[order[:held]], absent])
        wanted = torch.cat([torch.ones(held), torch.zeros(len(absent))])
        return own.edges[order[held:]], attacked, wanted
