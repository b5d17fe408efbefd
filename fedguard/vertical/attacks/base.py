"""`VerticalAttack`: the hooks of a lying party, and what it can measure afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedguard.errors import ConfigurationError
from fedguard.randomness import SERVER, numpy_generator
from fedguard.traits import Traits
from fedguard.vertical.data import PartyView
from fedguard.vertical.terms import Claim, Labels, SeenParty


@dataclass(frozen=True)
class Evidence:
    """What there is after training; an attack may use what its threat model says, no more.

    Attributes
    ----------
    parties : sequence of SeenParty
        All parties; an attack reads those of its attackers, and scores itself on the others.
    attackers : tuple of int
        The lying parties.
    holder : Labels
        The label holder's labels, for scoring and for the few that the attacker knows.
    seed : int
        Seed of the run.
    last_round : int
        The round that ended last.
    """

    parties: Sequence[SeenParty]
    attackers: tuple[int, ...]
    holder: Labels
    seed: int
    last_round: int


class VerticalAttack:
    """What lying parties of a vertical federation do; a subclass overrides the hooks it needs.

    Parameters
    ----------
    parties : tuple of int, optional
        The attackers, passive parties >= 1. Drawn by the seed if left out, as many as the
        configuration's `malicious` says and at least `least`.
    """

    traits: ClassVar[Traits] = Traits(world="vertical")
    least: ClassVar[int] = 1
    backdoor: ClassVar[bool] = False
    noise_factor: float = 1.0
    """What the attacker's noise is multiplied by."""

    def __init__(self, *, parties: tuple[int, ...] | None = None) -> None:
        self.parties = parties
        self.target_class: int | None = None
        self.labels: Tensor | None = None
        self.num_classes = 0
        self.seed = 0

    def choose(self, clients: int, malicious: float, seed: int) -> tuple[int, ...]:
        """Return the attackers."""
        if self.parties is not None:
            bad = [p for p in self.parties if not 1 <= p < clients]
            if bad or not self.parties:
                raise ConfigurationError(
                    "attack.parties", list(self.parties), f"passive parties, 1 to {clients - 1}"
                )
            return tuple(sorted(set(self.parties)))
        if malicious == 0.0:
            return ()
        count = min(max(self.least, round(malicious * clients)), clients - 1)
        if count < self.least:
            raise ConfigurationError("clients", clients, f"at least {self.least + 1} parties")
        stream = numpy_generator(seed, 0, SERVER, "vertical-attackers")
        chosen = stream.choice(clients - 1, size=count, replace=False) + 1
        return tuple(sorted(int(party) for party in chosen))

    def bind(self, y_train: Tensor, num_classes: int, seed: int) -> None:
        """Give the attack the labels, of which it may read as many as its threat model says."""
        self.labels, self.num_classes, self.seed = y_train, num_classes, seed

    def views(self, views: list[PartyView], attackers: tuple[int, ...]) -> list[PartyView]:
        """Return the parties' features, the attackers' changed."""
        return views

    def inputs(self, party: SeenParty, x: Tensor, ids: Tensor) -> Tensor:
        """Return the (B, ...) training features that an attacker feeds its bottom model."""
        return x

    def before_release(self, party: SeenParty, h: Tensor, server_round: int, ids: Tensor) -> Tensor:
        """Return the embedding that an attacker releases instead of (B, E) `h`."""
        return h

    def on_gradient(
        self, party: SeenParty, gradient: Tensor, server_round: int, ids: Tensor
    ) -> Tensor:
        """Look at, or replace, the gradient that an attacker got back."""
        return gradient

    def before_step(self, party: SeenParty) -> None:
        """Change the gradients of an attacker's weights before its SGD step."""

    def claim(self, party: SeenParty, honest: Claim) -> Claim:
        """Return what an attacker claims of its noise and cost."""
        return honest

    def triggered(self, party: SeenParty, h: Tensor) -> Tensor:
        """Return the test embeddings of a backdoor's triggered inputs."""
        return h

    def measure(self, evidence: Evidence) -> dict[str, float]:
        """Return what the attack gained, by name; ``success`` is shown as attack success."""
        return {}


class NoAttack(VerticalAttack):
    """Every party is honest."""

    def choose(self, clients: int, malicious: float, seed: int) -> tuple[int, ...]:
        """Return no attackers."""
        return ()
