"""How well a defence told malicious clients from honest ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Detection:
    """Rates of rejection in one round.

    Attributes
    ----------
    true_positive_rate : float or None
        Share of the malicious clients asked in this round that were rejected; None without any.
    false_positive_rate : float or None
        Share of the honest clients asked that were rejected; None without any.
    """

    true_positive_rate: float | None
    false_positive_rate: float | None


def detection(
    asked: Collection[int], rejected: Collection[int], malicious: Collection[int]
) -> Detection:
    """Compare who was rejected with who is malicious, among the clients that were asked."""
    liars = set(asked) & set(malicious)
    honest = set(asked) - liars
    caught = set(rejected)
    return Detection(
        true_positive_rate=len(liars & caught) / len(liars) if liars else None,
        false_positive_rate=len(honest & caught) / len(honest) if honest else None,
    )
