"""`History`: which model each of the last rounds started from, for everybody who needs the last."""

from __future__ import annotations

from torch import Tensor


class History:
    """The global models of the newest two rounds.

    One object serves a whole run: grids and the run itself note the model that a round starts
    from, once per round, and attacks are told what the server added in the round before.
    """

    def __init__(self) -> None:
        self._models: dict[int, Tensor] = {}

    def note(self, server_round: int, vector: Tensor) -> None:
        """Remember the (D,) model that a round starts from; the first word on a round holds."""
        self._models.setdefault(server_round, vector.detach().cpu())
        for old in sorted(self._models)[:-2]:
            del self._models[old]

    def started_from(self, server_round: int) -> Tensor | None:
        """Return the (D,) model that clients received in a round, None where nobody noted it."""
        return self._models.get(server_round)

    def last_update(self, server_round: int, vector: Tensor) -> Tensor | None:
        """Return (D,) what the server added in the round before, None where nobody noted it.

        Parameters
        ----------
        server_round : int
            The current round.
        vector : Tensor
            (D,) the model that it starts from.
        """
        before = self._models.get(server_round - 1)
        return None if before is None else vector - before.to(vector.device)
