"""What an attack on encrypted aggregation found out."""

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
        Whether the clients' guards were on.
    succeeded : bool
        Whether the attacker got what it was after.
    evidence : str
        What it got, or why it got nothing.
    """

    attack: str
    guarded: bool
    succeeded: bool
    evidence: str

    @property
    def line(self) -> str:
        """The outcome in one line."""
        mode = "guarded" if self.guarded else "naive"
        result = "succeeds" if self.succeeded else "fails"
        return f"{self.attack:22s} {mode:8s} {result:9s} {self.evidence}"
