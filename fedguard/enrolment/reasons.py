"""Why an update is not admitted: one sentence for each misdeed, the same wherever it is told."""

from __future__ import annotations

MALFORMED = "malformed: this is no ticket"
CHANGED = "changed on the way: the ticket is of another update"
UNKNOWN_LABEL = "unknown label: no group has it"
WRONG_EPOCH = "wrong epoch: the label is of neither this epoch nor the one before"
FORGED = "forged: no key of the group fits the ticket"
REVOKED = "revoked: this member may not take part any more"
OTHER_AGGREGATOR = "misdirected: the ticket is for another aggregator"
OTHER_ROUND = "replayed: the ticket is of another round"
CLOSED_ROUND = "late: that round is closed"
REPLAYED = "replayed: the ticket was used before"
TOO_MANY = "too many tickets of one member in a round"
FORGED_HANDLE = "forged handle: the answer is not the registrar's"
SECOND = "a second update in one round"
REPEATED = "repeated: this update is in already"
NO_ANSWER = "the registrar did not answer; try again"
FORGED_TOKEN = "forged: the token is not the registrar's"
FORGED_SIGNATURE = "forged: the token's owner did not sign this ticket"
ISSUED = "a second token for one round"

REASONS = (
    MALFORMED,
    CHANGED,
    UNKNOWN_LABEL,
    WRONG_EPOCH,
    FORGED,
    REVOKED,
    OTHER_AGGREGATOR,
    OTHER_ROUND,
    CLOSED_ROUND,
    REPLAYED,
    TOO_MANY,
    FORGED_HANDLE,
    SECOND,
    REPEATED,
    NO_ANSWER,
    FORGED_TOKEN,
    FORGED_SIGNATURE,
    ISSUED,
)
"""Every reason, in the order in which they are looked for."""


class NotAdmittedError(Exception):
    """A message of the protocol that its receiver does not accept.

    Parameters
    ----------
    reason : str
        One of `REASONS`.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)
