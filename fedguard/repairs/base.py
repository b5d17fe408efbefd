"""`Repair`: what the server does to the global model after aggregation, behind any strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch

from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.traits import Traits


class Repair(ABC):
    """One way to mend a global model, after aggregation and before the next broadcast."""

    traits: ClassVar[Traits] = Traits(server_data="labelled", server_model=True)
    """What the repair needs; labelled examples of the server unless a subclass says otherwise."""

    @abstractmethod
    def mend(self, tools: ServerTools, rng: torch.Generator) -> Mapping[str, float]:
        """Change ``tools.model``, which holds the new global model, in place.

        Parameters
        ----------
        tools : ServerTools
            The model, the server's examples and the task.
        rng : torch.Generator
            A stream of this round for the repair's own draws.

        Returns
        -------
        mapping of str to float
            What it did, by name; a line of ``repairs.jsonl``.
        """
