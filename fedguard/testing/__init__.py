"""The conformance suite: what every strategy and every attack must hold to, ours and yours.

``check_strategy(MyRule)`` and ``check_attack(MyAttack)`` raise `AssertionError` with one sentence
that names the property and what was seen.
"""

from fedguard.testing.attacks import ATTACK_CHECKS, check_attack
from fedguard.testing.strategies import CHECKS, check_strategy, check_verdict
from fedguard.testing.worlds import (
    HOSTILE_KINDS,
    honest_updates,
    hostile_rows,
    small_tools,
    with_deltas,
)

__all__ = [
    "ATTACK_CHECKS",
    "CHECKS",
    "HOSTILE_KINDS",
    "check_attack",
    "check_strategy",
    "check_verdict",
    "honest_updates",
    "hostile_rows",
    "small_tools",
    "with_deltas",
]
