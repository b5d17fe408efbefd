"""DICE by features: similar neighbours are parted, unlike nodes are linked."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.toolkit.edge_edits import OwnGraph, RankedEdges
from fedguard.data.graphs import shared_features


class DiceEdges(RankedEdges):
    r"""Remove the links whose ends share most features; add pairs that share fewest.

    Waniek, Michalak, Wooldridge and Rahwan, "Hiding Individuals and Communities in a Social
    Network", Nature Human Behaviour 2018 ("delete internally, connect externally"), with shared
    features in place of communities. Pairs to add are the least alike of 20 times as many that
    are drawn. For the arguments see `EdgeEdits`.

    Notes
    -----
    .. math::
       \text{remove: links with the greatest } |F_i \cap F_j|, \qquad
       \text{add: drawn pairs with the least } |F_i \cap F_j|

    where :math:`F_i` are the features of node i that are not 0.

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

    tries: ClassVar[int] = 20

    def likeness(self, own: OwnGraph, pairs: Tensor, rng: torch.Generator) -> Tensor:
        """Return how many features the ends share; see `RankedEdges.likeness`."""
        return shared_features(own.features, pairs)
