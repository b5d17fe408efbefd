"""Random edges: a client's graph is edited at random."""

from __future__ import annotations

import torch

from fedguard.attacks.toolkit.edge_edits import Chosen, EdgeEdits, OwnGraph, drawn_pairs


class RandomEdges(EdgeEdits):
    """Add absent pairs and remove links, all drawn uniformly; the control of crafted edits.

    For the arguments see `EdgeEdits`.
    """

    def ranked(self, own: OwnGraph, add: int, remove: int, rng: torch.Generator) -> Chosen:
        """Return drawn edits; see `EdgeEdits.ranked`."""
        gone = torch.randperm(len(own.edges), generator=rng)[:remove]
        return Chosen(drawn_pairs(own, add, own.known, rng), own.edges[gone])
