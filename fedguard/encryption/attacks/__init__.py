"""Attacks on encrypted aggregation: what a curious or malicious server does to naive protocols.

``python -m fedguard.encryption.attacks`` runs all of them, against the naive mode and against the
guarded one. Each is a function of one argument, whether the clients' guards are on.
"""

from __future__ import annotations

from collections.abc import Callable

from fedguard.encryption.attacks.changed_scale import changed_scale
from fedguard.encryption.attacks.differencing import differencing
from fedguard.encryption.attacks.encrypted_twice import encrypted_twice
from fedguard.encryption.attacks.key_recovery import key_recovery
from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.attacks.repeated_queries import repeated_queries
from fedguard.encryption.attacks.rogue_key import rogue_key
from fedguard.encryption.attacks.shares_without_noise import shares_without_noise
from fedguard.encryption.attacks.split_models import split_models
from fedguard.encryption.attacks.substituted_aggregate import substituted_aggregate
from fedguard.encryption.attacks.two_lists import two_lists
from fedguard.encryption.attacks.two_rounds import two_rounds
from fedguard.encryption.attacks.weaker_profile import weaker_profile

ATTACKS: dict[str, Callable[[bool], AttackOutcome]] = {
    "key-recovery": key_recovery,
    "substituted-aggregate": substituted_aggregate,
    "rogue-joint-key": rogue_key,
    "differencing": differencing,
    "shares-without-noise": shares_without_noise,
    "repeated-queries": repeated_queries,
    "two-rounds": two_rounds,
    "split-models": split_models,
    "weaker-profile": weaker_profile,
    "changed-scale": changed_scale,
    "encrypted-twice": encrypted_twice,
    "two-lists": two_lists,
}
"""Attack name to function."""

__all__ = ["ATTACKS", "AttackOutcome"]
