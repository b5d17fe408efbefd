"""What an attack on enrolment found out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttackOutcome:
    """One attack against one mode.

    Attributes
    ----------
    attack : str
        Its name.
    guarded : bool
        Whether it was against the protocol, or against one without the guard in question: the
        positive control, which shows that the attack can tell.
    succeeded : bool
        Whether the attacker got what it was after.
    figure : float
        What was measured; `evidence` says what it is.
    evidence : str
        What the attacker got, or why it got nothing.
    """

    attack: str
    guarded: bool
    succeeded: bool
    figure: float
    evidence: str

    @property
    def line(self) -> str:
        """The outcome in one line."""
        mode = "protocol" if self.guarded else "control"
        result = "succeeds" if self.succeeded else "fails"
        return f"{self.attack:20s} {mode:8s} {result:8s} {self.evidence}"


def advantage(hits: float, tries: int, candidates: int) -> float:
    """Return how far a linker is above chance: 0 for guessing, 1 for always right."""
    chance = 1.0 / candidates
    return (hits / tries - chance) / (1.0 - chance)
