"""What is agreed between label holder, parties and attacks: terms, claims, batches.

Everything here is plain data, or says what one side may see of another; nothing computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from fedguard.vertical.data import PartyView
from fedguard.vertical.rewards import RewardRule


@dataclass(frozen=True)
class PrivacyTerms:
    """How a party protects what it releases.

    Attributes
    ----------
    clip : float
        L2 bound of an embedding's row; the sensitivity S is twice that (replace one row).
    delta : float
        Of each release and of the total.
    epsilon_min, epsilon_max : float
        Limits of the epsilon of one release.
    step : float
        Largest move of epsilon per round as a share of the limits' distance; 0 keeps it fixed.
    at_inference : bool
        Whether test-time embeddings carry the noise too.
    """

    clip: float
    delta: float
    epsilon_min: float
    epsilon_max: float
    step: float
    at_inference: bool

    @property
    def sensitivity(self) -> float:
        """L2 distance that replacing one row's features can move its released row."""
        return 2.0 * self.clip


@dataclass(frozen=True)
class PartyTerms:
    """What a strategy asks of one party.

    Attributes
    ----------
    embedding : int
        Width E of the embedding.
    privacy : PrivacyTerms or None
        None for embeddings as they are.
    reward : RewardRule or None
        The score whose slope in epsilon the party follows.
    cost_ratio : float
        The party's c_i.
    initial_epsilon : float
        Epsilon of the first round.
    zeroth_order : float
        Smoothing radius mu of zeroth-order training; 0 for gradients.
    """

    embedding: int
    privacy: PrivacyTerms | None = None
    reward: RewardRule | None = None
    cost_ratio: float = 1.0
    initial_epsilon: float = 1.0
    zeroth_order: float = 0.0


@dataclass(frozen=True)
class Optimiser:
    """Hyper-parameters of SGD, as in the configuration."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def make(self, parameters: list[nn.Parameter]) -> torch.optim.SGD:
        """Return SGD on some parameters."""
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


@dataclass(frozen=True)
class Claim:
    """What a party says of itself before a round.

    Attributes
    ----------
    epsilon : float
        Epsilon of each of its releases; infinite without noise.
    cost_ratio : float
        Its c_i.
    """

    epsilon: float
    cost_ratio: float


@dataclass
class Batch:
    """The batch a party has released and has had no answer for yet."""

    server_round: int
    number: int
    ids: Tensor
    output: Tensor | None = field(default=None, repr=False)
    """(B, E) output of the bottom model before clipping, with its graph; None once forgotten."""

    @property
    def known_output(self) -> Tensor:
        """The output, which is there."""
        assert self.output is not None
        return self.output


class SeenParty(Protocol):
    """What an attack may see of a party, its own or a victim's; a `Party` is one.

    Attributes
    ----------
    index : int
        Which party; 0 is the label holder's own.
    seed : int
        Seed of its noise.
    view : PartyView
        Its features.
    bottom : nn.Module
        Its bottom model, (B, ...) to (B, E).
    parameters : list of nn.Parameter
        The bottom model's weights that are trained.
    terms : PartyTerms
        What the strategy asks of it.
    memory : dict of str to Tensor
        What an attack keeps between batches; part of the party's state.
    """

    index: int
    seed: int
    view: PartyView
    bottom: nn.Module
    parameters: list[nn.Parameter]
    terms: PartyTerms
    memory: dict[str, Tensor]

    @property
    def sigma(self) -> float:
        """Standard deviation of its noise, per coordinate."""
        ...

    def clean_embeddings(self, *, test: bool = False) -> Tensor:
        """Return (N, E) clipped embeddings without noise."""
        ...


class Labels(Protocol):
    """What an attack may see of the label holder; a `LabelHolder` is one.

    Attributes
    ----------
    y_train : Tensor
        (N,) labels by row id, for scoring and for the few that an attacker knows.
    num_classes : int
        Number of classes C.
    """

    y_train: Tensor
    num_classes: int
