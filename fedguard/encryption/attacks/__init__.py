"""Attacks on encrypted aggregation: what a curious or malicious server does to naive protocols.

``python -m fedguard.encryption.attacks`` runs all of them, against the naive mode and against the
guarded one. Each is a function of one argument, whether the clients' guards are on.
"""

from __future__ import annotations

from collections.abc import Callable

from fedguard.encryption.attacks.differencing import differencing
from fedguard.encryption.attacks.key_recovery import key_recovery
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.attacks.repeated_queries import repeated_queries
from fedguard.encryption.attacks.rogue_key import rogue_key
from fedguard.encryption.attacks.shares_without_noise import shares_without_noise
from fedguard.encryption.attacks.substituted_aggregate import substituted_aggregate

ATTACKS: dict[str, Callable[[bool], AttackOutcome]] = {
    "key-recovery": key_recovery,
    "substituted-aggregate": substituted_aggregate,
    "rogue-joint-key": rogue_key,
    "differencing": differencing,
    "shares-without-noise": shares_without_noise,
    "repeated-queries": repeated_queries,
}
"""Attack name to function."""

__all__ = ["ATTACKS", "AttackOutcome"]
