"""DICE by features: similar neighbours are parted, unlike nodes are linked."""

from __future__ import annotations

import torch

from fedguard.attacks.toolkit.edge_edits import Chosen, EdgeEdits, OwnGraph, drawn_pairs
from fedguard.data.graphs import shared_features

_TRIES = 20


class DiceEdges(EdgeEdits):
    """Remove the links whose ends share most features; add pairs that share fewest.

    Waniek, Michalak, Wooldridge and Rahwan, "Hiding Individuals and Communities in a Social
    Network", Nature Human Behaviour 2018 ("delete internally, connect externally"), with shared
    features in place of communities. Pairs to add are the least alike of 20 times as many that
    are drawn. For the arguments see `EdgeEdits`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.dice_edges import DiceEdges
    >>> from fedguard.data.graph_sample import GraphSample
    >>> data = GraphSample().load(None)
    >>> attack = DiceEdges(budget=0.1, edits="add")
    >>> attack.meet(data)
    >>> links = int((data.y_train > 0).sum())
    >>> _, y = attack.poison(data.x_train, data.y_train, torch.Generator().manual_seed(0))
    >>> int((y > 0).sum()) - links == round(0.1 * links)
    True
    """

    def ranked(self, own: OwnGraph, add: int, remove: int, rng: torch.Generator) -> Chosen:
        """Return the edits by shared features; see `EdgeEdits.ranked`."""
        tried = drawn_pairs(own, _TRIES * add, own.known, rng)
        unlike = shared_features(own.features, tried).argsort(stable=True)[:add]
        alike = shared_features(own.features, own.edges).argsort(descending=True, stable=True)
        return Chosen(tried[unlike], own.edges[alike[:remove]])
