"""Attacks on enrolment: who can link or forge what, each beside a control that shows it can tell.

``python -m fedguard.enrolment.attacks`` runs all of them. Each is a function of one argument:
False for the control, a scheme without the guard in question, True for the protocol.
"""

from __future__ import annotations

from collections.abc import Callable

from fedguard.enrolment.attacks.admission import collusion, sybil, sybil_tokens, tagged_keys
from fedguard.enrolment.attacks.forgeries import (
    forged_handle,
    forged_ticket,
    other_round,
    reflection,
    replay,
    swapped_aggregator,
    swapped_update,
    wrong_epoch,
)
from fedguard.enrolment.attacks.labels import insiders, intersection, label_linking
from fedguard.enrolment.attacks.metadata import example_counts, reused_keys, update_similarity
from fedguard.enrolment.attacks.outcome import AttackOutcome

ATTACKS: dict[str, Callable[[bool], AttackOutcome]] = {
    "label-linking": label_linking,
    "intersection": intersection,
    "insiders": insiders,
    "replay": replay,
    "other-round": other_round,
    "reflection": reflection,
    "swapped-aggregator": swapped_aggregator,
    "wrong-epoch": wrong_epoch,
    "forged-ticket": forged_ticket,
    "forged-handle": forged_handle,
    "swapped-update": swapped_update,
    "reused-keys": reused_keys,
    "example-counts": example_counts,
    "update-similarity": update_similarity,
    "sybil": sybil,
    "sybil-tokens": sybil_tokens,
    "collusion": collusion,
    "tagged-keys": tagged_keys,
}
"""Attack name to function, in the order of the specification's list."""

__all__ = ["ATTACKS", "AttackOutcome"]
