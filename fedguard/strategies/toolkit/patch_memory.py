"""What earlier rounds said of who teaches a patch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CARRIED = 0.5
"""Part of the evidence of a client's last round that is added to this round's."""

FORGOTTEN = 0.5
"""Factor on what is remembered of a client in a round that says nothing against it."""

MOST = 1.5
"""Evidence is remembered up to this."""

MOST_CARRIED = CARRIED * MOST
"""So much of it at most is added to a round's."""

LEAST = 0.01
"""Less evidence than this is forgotten."""


class PatchMemory:
    """Evidence, by node and class, that a client teaches a patch; rounds without it do not count.

    Only evidence above 0 takes room.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], float] = {}

    def carried(self, node_ids: Sequence[int], classes: Sequence[int]) -> Tensor:
        """Return the (C, K) evidence that is carried over to this round, 0 to `MOST_CARRIED`."""
        rows = [[self._known.get((node, label), 0.0) for node in node_ids] for label in classes]
        found = torch.tensor(rows, dtype=torch.float64).view(len(classes), len(node_ids))
        return CARRIED * found

    def learn(
        self, node_ids: Sequence[int], classes: Sequence[int], evidence: Tensor, said: Tensor
    ) -> None:
        """Take a round in.

        Parameters
        ----------
        node_ids : sequence of int
            The round's K nodes.
        classes : sequence of int
            The C classes that were looked at.
        evidence : Tensor
            (C, K), with what was carried over.
        said : Tensor
            (C, K) bool, where the round says something; elsewhere the memory fades.
        """
        present = set(node_ids)
        for key in [key for key in self._known if key[0] in present]:
            self._known[key] *= FORGOTTEN
        for case, row in said.nonzero().tolist():
            key = (node_ids[row], classes[case])
            self._known[key] = min(float(evidence[case, row]), MOST)
        self._known = {key: value for key, value in self._known.items() if value > LEAST}

    def state(self) -> dict[str, Tensor]:
        """Return what must survive a restart, as named tensors."""
        keys = torch.tensor(list(self._known), dtype=torch.int64).view(-1, 2)
        values = torch.tensor(list(self._known.values()), dtype=torch.float64)
        return {"patch_keys": keys, "patch_evidence": values}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        keys, values = state["patch_keys"].tolist(), state["patch_evidence"].tolist()
        self._known = {
            (node, label): value for (node, label), value in zip(keys, values, strict=True)
        }
