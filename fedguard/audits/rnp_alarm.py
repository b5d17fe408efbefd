"""The RNP alarm: a model that forgot its clean task answers with a backdoor's target class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.audits.base import Audit
from fedguard.errors import check_number
from fedguard.strategies.toolkit.forgetting import Climb, chance, forget
from fedguard.traits import Traits


class RnpAlarm(Audit):
    """Climb the loss of a copy on the server's clean rows, and see which class is left.

    ``label`` = the class that the copy predicts most, ``confidence`` = the share of the rows on
    it. The clean task is forgotten first and a backdoor later, so a backdoored model is left with
    the target class. An alarm is raised where the confidence reaches `at_least`.

    The first two steps of Li et al., "Reconstructive Neuron Pruning for Backdoor Defense", ICML
    2023, as an alarm; the threshold is ours. On the small networks of ``docs/repairs.md`` it went
    off on all models, attacked or clean: see what it says of clean runs before it decides.

    Parameters
    ----------
    at_least : float
        Confidence of an alarm, above 0 to 1.
    every : int
        Rounds between two looks, at least 1; the last round is looked at too.
    lr : float
        Learning rate of the climb, above 0.
    """

    traits: ClassVar[Traits] = Traits(
        tasks=frozenset({"classification"}), server_data="labelled", server_model=True
    )

    def __init__(self, *, at_least: float = 0.6, every: int = 1, lr: float = 0.01) -> None:
        check_number("at_least", at_least, above=0.0, at_most=1.0)
        check_number("every", every, at_least=1)
        check_number("lr", lr, above=0.0)
        self.at_least, self.every, self.lr = at_least, every, lr

    def due(self, server_round: int, rounds: int) -> bool:
        """Return whether a round is looked at."""
        return server_round == rounds or (server_round > 0 and server_round % self.every == 0)

    def look(self, server_round: int, vector: Tensor, rng: torch.Generator) -> Mapping[str, Any]:
        """Return label, confidence and whether it is an alarm; see `Audit.look`."""
        tools = self.scene.tools
        if tools is None:
            return {}
        self.scene.model.load(vector.to(self.scene.device))
        how = Climb(lr=self.lr)
        found = forget(tools, tools.x, tools.y, how, chance(tools.num_classes), rng)
        return {
            "label": found.label,
            "confidence": found.confidence,
            "forgotten": found.accuracy,
            "alarmed": found.confidence >= self.at_least,
        }

    def alarm(self, figures: Mapping[str, Any]) -> bool:
        """Return whether the confidence reached `at_least`."""
        return bool(figures.get("alarmed", False))
