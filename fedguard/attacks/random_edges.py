"""Random edges: a client's graph is edited at random."""

from __future__ import annotations

import torch
from torch import Tensor

from fedguard.attacks.toolkit.edge_edits import OwnGraph, RankedEdges


class RandomEdges(RankedEdges):
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

    def likeness(self, own: OwnGraph, pairs: Tensor, rng: torch.Generator) -> Tensor:
        """Return numbers that are drawn; see `RankedEdges.likeness`."""
        return torch.rand(len(pairs), generator=rng)
