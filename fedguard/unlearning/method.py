"""The interface of an unlearning method, and what the server knows when it erases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fedguard.config.requests import UnlearnRequest
from fedguard.layout import ParameterLayout
from fedguard.unlearning.climbing import AscentSettings
from fedguard.unlearning.pruning import (
    Evidence,
    PrunableLayer,
    PruningRule,
    magnitudes,
)
from fedguard.updates import ClientUpdates


@dataclass(frozen=True)
class Options:
    """Settings of the methods; see `fedguard.unlearning.strategy.SoUL`."""

    alpha: float = 0.1
    beta: float = 0.15
    pruning: PruningRule = "attribution-ratio"
    ascent: AscentSettings = field(default_factory=AscentSettings)
    calibration_ratio: float = 0.5


@dataclass(frozen=True)
class Activations:
    """One client's sums of activations by class, (C, units), and counts, (C,), on both sides."""

    forget_sums: Tensor
    forget_counts: Tensor
    retain_sums: Tensor
    retain_counts: Tensor


@dataclass(frozen=True)
class LastModel:
    """The model that a client sent last, and its share in the aggregate then."""

    model: Tensor
    share: float


@dataclass(frozen=True)
class Situation:
    """What the server knows in the round of a request.

    Attributes
    ----------
    vector, initial : Tensor
        (D,) the global model now and before round 1.
    requests : tuple of UnlearnRequest
        Genuine requests of this round.
    layout : ParameterLayout
        Layout of the vectors.
    layers : tuple of PrunableLayer
        Hidden layers of the network.
    last_models : mapping of int to LastModel
        What the requesters sent last.
    rng : torch.Generator
        The method's own random stream.
    climbed : mapping of int to Tensor
        Client to (D,) unlearned model minus where it started.
    activations : mapping of int to Activations
        Client to what it measured.
    contributions : mapping of int to Tensor
        Requester to its units' (all units,) mean contributions on what is forgotten.
    held_out_contributions : Tensor or None
        (all units,) the same on rows that nobody trained on.
    """

    vector: Tensor
    initial: Tensor
    requests: tuple[UnlearnRequest, ...]
    layout: ParameterLayout
    layers: tuple[PrunableLayer, ...]
    last_models: Mapping[int, LastModel]
    rng: torch.Generator
    climbed: Mapping[int, Tensor] = field(default_factory=dict)
    activations: Mapping[int, Activations] = field(default_factory=dict)
    contributions: Mapping[int, Tensor] = field(default_factory=dict)
    held_out_contributions: Tensor | None = None

    def evidence(self, unlearned: Tensor) -> list[Evidence]:
        """Return, layer by layer, what a pruning rule may look at."""
        widths = [layer.units for layer in self.layers]
        sides: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(widths)
        if (known := self.both_sides()) is not None:
            forget, retain = known
            sides = list(zip(torch.split(forget, widths), torch.split(retain, widths), strict=True))
        return [
            Evidence(
                learned=magnitudes(self.layout, self.vector, layer),
                unlearned=magnitudes(self.layout, unlearned, layer),
                change=magnitudes(self.layout, unlearned - self.vector, layer),
                forget=forget,
                retain=retain,
            )
            for layer, (forget, retain) in zip(self.layers, sides, strict=True)
        ]

    def both_sides(self) -> tuple[Tensor, Tensor] | None:
        """Return what units do on what is forgotten and on the rest, None where nobody said."""
        if self.contributions and self.held_out_contributions is not None:
            forget = torch.stack(list(self.contributions.values())).mean(dim=0)
            return forget, self.held_out_contributions
        return self.mean_activations() if self.activations else None

    def mean_activations(self) -> tuple[Tensor, Tensor]:
        """Return every unit's mean activation on what is forgotten and on the rest."""
        found = list(self.activations.values())
        forget = sum((one.forget_sums.sum(0) for one in found), torch.zeros(()))
        retain = sum((one.retain_sums.sum(0) for one in found), torch.zeros(()))
        forgotten = sum(float(one.forget_counts.sum()) for one in found)
        retained = sum(float(one.retain_counts.sum()) for one in found)
        return forget / max(forgotten, 1.0), retain / max(retained, 1.0)


@dataclass(frozen=True)
class Erased:
    """What a method made of the global model.

    Attributes
    ----------
    vector : Tensor
        (D,) the new global model.
    keep : Tensor or None
        (D,) bool; parameters that are False stay zero from now on.
    """

    vector: Tensor
    keep: Tensor | None = None


class UnlearningMethod(ABC):
    """One way to take what a request names out of the global model.

    The round of a request goes to the erasure: clients answer what the method asks, `erase` returns
    the new model. Recovery rounds without the forgotten data follow. The server knows neither the
    truth about clients nor the trigger of a backdoor.

    Parameters
    ----------
    options : Options
        Settings.
    """

    asks: ClassVar[frozenset[str]] = frozenset()
    """What clients are asked in the round of the request: ``"ascent"`` and with it
    ``"contributions"`` of the requester, ``"activations"`` of everyone."""

    ascent_lr: ClassVar[float] = 0.05
    """Step size of the ascent where none is configured."""

    held_out: ClassVar[bool] = False
    """Whether ascent is told the rows that nobody trained on, and the server checks on them."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def origin(self, situation: Situation, request: UnlearnRequest) -> Tensor:
        """Return the (D,) model that a requester climbs from; the global one by default."""
        return situation.vector

    def settings(self, situation: Situation, request: UnlearnRequest) -> AscentSettings:
        """Return how far a requester climbs."""
        return self.options.ascent

    @abstractmethod
    def erase(self, situation: Situation) -> Erased:
        """Return the new global model."""

    @property
    def calibrates(self) -> bool:
        """Whether rounds of calibration follow, in which `calibrate` aggregates."""
        return False

    def calibration_epochs(self, local_epochs: int) -> int:
        """Return the local epochs of a round of calibration."""
        return local_epochs

    def calibrate(self, stored: ClientUpdates, fresh: ClientUpdates) -> Tensor:
        """Return the (D,) step of one round of calibration."""
        raise NotImplementedError
