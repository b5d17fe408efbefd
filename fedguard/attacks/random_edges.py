"""Random edges: a client's graph is edited at random."""

from __future__ import annotations

import torch

from fedguard.attacks.toolkit.edge_edits import Chosen, EdgeEdits, OwnGraph, drawn_pairs


class RandomEdges(EdgeEdits):
    """Add absent pairs and remove links, all drawn uniformly; the control of crafted edits.

    For the arguments see `EdgeEdits`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.random_edges import RandomEdges
    >>> from fedguard.data.graph_sample import GraphSample
    >>> data = GraphSample().load(None)
    >>> attack = RandomEdges(budget=0.1, edits="add")
    >>> attack.meet(data)
    >>> links = int((data.y_train > 0).sum())
    >>> _, y = attack.poison(data.x_train, data.y_train, torch.Generator().manual_seed(0))
    >>> int((y > 0).sum()) - links == round(0.1 * links)
    True
    """

    def ranked(self, own: OwnGraph, add: int, remove: int, rng: torch.Generator) -> Chosen:
        """Return drawn edits; see `EdgeEdits.ranked`."""
        gone = torch.randperm(len(own.edges), generator=rng)[:remove]
        return Chosen(drawn_pairs(own, add, own.known, rng), own.edges[gone])
