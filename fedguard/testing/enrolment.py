"""What every enrolment must hold to; see `check_enrolment`."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

from fedguard.testing.outcome import Conformance, every_failure, run_checks
from fedguard.testing.parameters import check_arguments_of

EnrolmentFactory = Callable[[], Any]

_CLIENTS = 32
"""Clients that are enrolled: enough for any group."""

_ONE, _OTHER = (hashlib.sha256(text).digest() for text in (b"one", b"other"))


def check_enrolment_parameters(make: EnrolmentFactory) -> None:
    """Check that the constructor refuses absurd values of its arguments."""
    check_arguments_of(make, object)


def check_admits(make: EnrolmentFactory) -> None:
    """Check that every client's own reply is admitted, once in each round."""
    door = _enrolled(make)
    with every_failure() as failures:
        for server_round in (1, 2, 3):
            for client in (0, 1, 7):
                with failures.on(f"client {client} in round {server_round}"):
                    ticket = door.ticket(client, server_round, _ONE)
                    assert isinstance(ticket, bytes), f"its ticket is {type(ticket).__name__}"
                    why = door.refusal(client, server_round, _ONE, ticket)
                    assert why is None, f"refused: {why}"


def check_refuses(make: EnrolmentFactory) -> None:
    """Check that forged, replayed, changed and second replies are refused, with a reason."""
    with every_failure() as failures:
        for told in ("somebody else's ticket", "no ticket", "one bit", "replayed", "changed"):
            if told == "somebody else's ticket" and not make().named:
                continue  # whose it is, nobody at the door knows
            with failures.on(told):
                door = _enrolled(make)
                for client in (0, 1):
                    door.ticket(client, 1, _ONE)
                why = door.refusal(0, 2, _ONE, _bad_ticket(door, told))
                assert why is not None, "admitted"
                told_why = isinstance(why, str) and len(why) > 0
                assert told_why, f"refused with {why!r}, no reason"
        with failures.on("a second reply"):
            door = _enrolled(make)
            ticket = door.ticket(0, 2, _ONE)
            assert door.refusal(0, 2, _ONE, ticket) is None, "the first one is refused"
            assert door.refusal(0, 2, _ONE, ticket) is not None, "admitted"


def _enrolled(make: EnrolmentFactory) -> Any:
    door = make()
    door.enrol(_CLIENTS, 0)
    return door


def _bad_ticket(door: Any, told: str) -> bytes:
    """Return what must not let client 0 in with the update `_ONE` in round 2."""
    old: bytes = door.ticket(0, 1, _ONE)
    good: bytes = door.ticket(0, 2, _ONE)
    found: dict[str, bytes] = {
        "somebody else's ticket": door.ticket(1, 2, _ONE),
        "no ticket": b"",
        "one bit": good[:-1] + bytes([good[-1] ^ 1]),
        "replayed": old,
        "changed": door.ticket(0, 2, _OTHER),
    }
    return found[told]


ENROLMENT_CHECKS: tuple[Callable[[EnrolmentFactory], None], ...] = (
    check_enrolment_parameters,
    check_admits,
    check_refuses,
)
"""Every check of an enrolment, in the order in which `check_enrolment` runs them."""


def check_enrolment(part: Any) -> Conformance:
    """Run every check of `ENROLMENT_CHECKS` on an enrolment.

    Parameters
    ----------
    part : Enrolment or callable
        An enrolment, of which copies are tested, or a callable that makes one, such as its class.

    Returns
    -------
    Conformance
        What passed, and what was skipped for which reason.

    Raises
    ------
    AssertionError
        With a line for everything that failed: the check, the input and what was seen.
    """
    made = hasattr(part, "refusal") and not isinstance(part, type)
    make: EnrolmentFactory = (lambda: copy.deepcopy(part)) if made else part
    return run_checks(ENROLMENT_CHECKS, make)
