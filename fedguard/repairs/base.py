"""`Repair`: what the server does to the global model after aggregation, behind any strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.traits import Traits
from fedguard.updates import ClientUpdates


class Repair(ABC):
    """One way to mend a global model, after aggregation and before the next broadcast.

    Once per run `open`; after every aggregation either `mend`, where it is due, or `hold`.
    """

    traits: ClassVar[Traits] = Traits(server_data="labelled", server_model=True)
    """What the repair needs; labelled examples of the server unless a subclass says otherwise."""

    reads_updates: ClassVar[bool] = False
    """Whether it is shown every round's updates, in `see`."""

    def open(self, tools: ServerTools) -> None:  # noqa: B027
        """Look at what the server lends before the first round.

        Raises
        ------
        ConfigurationError
            If the repair can do nothing with this model.
        """

    def see(self, updates: ClientUpdates) -> None:  # noqa: B027
        """Look at a round's updates before `mend`; only where `reads_updates` is true.

        Must not change them. What it learns is part of `state`.
        """

    @abstractmethod
    def mend(self, tools: ServerTools, rng: torch.Generator) -> Mapping[str, Any]:
        """Change ``tools.model``, which holds the new global model, in place.

        Parameters
        ----------
        tools : ServerTools
            The model, the server's examples and the task.
        rng : torch.Generator
            A stream of this round for the repair's own draws.

        Returns
        -------
        mapping of str to (number or sequence of numbers)
            What it did, by name; a line of ``repairs.jsonl``.
        """

    def hold(self, tools: ServerTools) -> bool:
        """Keep up, in a round without repair, what an earlier one did: change ``tools.model``.

        Attackers who stay would otherwise train a pruned channel anew. Returns whether the model
        was changed; by default it is not.
        """
        return False

    def state(self) -> dict[str, Tensor]:
        """Return what `hold` needs after a restart, by name; part of every checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take back what `state` returned."""
