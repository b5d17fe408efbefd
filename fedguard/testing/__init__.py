"""The conformance suite: what every part must hold to, ours and yours.

``check_strategy(MyRule)``, ``check_attack(MyAttack)`` and the like return what passed and what was
skipped, or raise `AssertionError` with a line for every failure: the check, the input and what was
seen.
With ``quick=True`` the first two take a fraction of a second.
"""

from fedguard.testing.attacks import ATTACK_CHECKS, QUICK_ATTACK_CHECKS, check_attack
from fedguard.testing.audits import check_audit
from fedguard.testing.deciding import check_verdict
from fedguard.testing.enrolment import check_enrolment
from fedguard.testing.outcome import Conformance
from fedguard.testing.repairs import check_repair
from fedguard.testing.strategies import CHECKS, QUICK_CHECKS, check_strategy
from fedguard.testing.tasks import check_task
from fedguard.testing.training import check_training
from fedguard.testing.worlds import (
    HOSTILE_KINDS,
    decoy_updates,
    dissimilar_updates,
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
    "check_audit",
    "check_enrolment",
    "check_repair",
    "check_strategy",
    "check_task",
    "check_training",
    "check_verdict",
    "decoy_updates",
    "dissimilar_updates",
    "honest_updates",
    "hostile_rows",
    "small_tools",
    "with_deltas",
]
