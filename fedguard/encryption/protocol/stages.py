"""The protocol as a state machine: which message a client takes in which state, and how often.

A client moves along an arrow or refuses; there is no arrow back, so no message that says anything
is answered twice.
`docs/encryption.md` prints both tables with who sends what.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from fedguard.encryption.errors import RefusedError


class Stage(IntEnum):
    """Where a client stands with one set of keys."""

    NEW = 0
    COMMITTED = 1
    REVEALED = 2
    ENCRYPTED = 3
    CONFIRMED = 4
    DISPUTED = 5
    ANSWERED = 6


Table = Mapping[str, Mapping[Stage, Stage]]
"""Message to state to next state."""

MULTI_KEY: Table = {
    "commit": {Stage.NEW: Stage.COMMITTED},
    "reveal": {Stage.COMMITTED: Stage.REVEALED},
    "encrypt": {Stage.REVEALED: Stage.ENCRYPTED},
    "share": {Stage.ENCRYPTED: Stage.ANSWERED, Stage.DISPUTED: Stage.ANSWERED},
    "dispute": {Stage.DISPUTED: Stage.ANSWERED},
}
"""Multi-key CKKS: one pass per round and attempt.

With a threshold ``share`` leaves a client in ``ENCRYPTED`` until it has answered often enough, for
one and the same sum."""

SHARED_KEY: Table = {
    "commit": dict.fromkeys(Stage, Stage.COMMITTED),
    "reveal": {Stage.COMMITTED: Stage.REVEALED},
    "encrypt": {
        Stage.REVEALED: Stage.ENCRYPTED,
        Stage.ENCRYPTED: Stage.ENCRYPTED,
        Stage.CONFIRMED: Stage.ENCRYPTED,
        Stage.ANSWERED: Stage.ENCRYPTED,
    },
    "check": {Stage.ENCRYPTED: Stage.ENCRYPTED},
    "confirm": {Stage.ENCRYPTED: Stage.CONFIRMED},
    "share": {Stage.CONFIRMED: Stage.ANSWERED},
}
"""Plain CKKS: a ``commit`` starts over with another key, an ``encrypt`` with a later round."""


def next_stage(table: Table, message: str, stage: int, label: str) -> Stage:
    """Return where a message takes a client.

    Parameters
    ----------
    table : mapping
        `MULTI_KEY` or `SHARED_KEY`.
    message : str
        Name of the message.
    stage : int
        Where the client stands.
    label : str
        Names the round in the refusal.

    Raises
    ------
    RefusedError
        If the table has no arrow for it.
    """
    found = table[message].get(Stage(stage))
    if found is not None:
        return found
    if stage == Stage.NEW:
        raise RefusedError(f"round {label}: this client has no key for it")
    if stage == Stage.ANSWERED:
        raise RefusedError(f"round {label}: this client has answered and dropped its key")
    raise RefusedError(f"round {label}: asked to {message} out of turn")
