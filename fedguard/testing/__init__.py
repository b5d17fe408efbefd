"""The conformance suite: what every strategy and every attack must hold to, ours and yours.

``check_strategy(MyRule)`` and ``check_attack(MyAttack)`` return what passed and what was skipped,
or raise `AssertionError` with a line for every failure: the check, the input and what was seen.
With ``quick=True`` they take a fraction of a second.
"""

from fedguard.testing.attacks import ATTACK_CHECKS, QUICK_ATTACK_CHECKS, check_attack
from fedguard.testing.deciding import check_verdict
from fedguard.testing.outcome import Conformance
from fedguard.testing.strategies import CHECKS, QUICK_CHECKS, check_strategy
from fedguard.testing.worlds import (
    HOSTILE_KINDS,
    decoy_updates,
    honest_updates,
    hostile_rows,
    small_tools,
    with_deltas,
)

__all__ = [
    "ATTACK_CHECKS",
    "CHECKS",
    "HOSTILE_KINDS",
    "QUICK_ATTACK_CHECKS",
    "QUICK_CHECKS",
    "Conformance",
    "check_attack",
    "check_strategy",
    "check_verdict",
    "decoy_updates",
    "honest_updates",
    "hostile_rows",
    "small_tools",
    "with_deltas",
]
