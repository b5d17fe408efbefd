"""Attack 4: replay, reflection, swapped aggregator, wrong epoch, forged handle.

Each control is the protocol without the one guard in question.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace

from fedguard.enrolment.aggregator import Aggregator
from fedguard.enrolment.attacks.outcome import AttackOutcome
from fedguard.enrolment.attacks.world import OTHER, SOME, labels
from fedguard.enrolment.reasons import NotAdmittedError
from fedguard.enrolment.registrar import Registrar
from fedguard.enrolment.tickets import (
    KEY,
    NONCE,
    Answer,
    Place,
    Receipt,
    Ticket,
    aggregator_id,
    label_of,
)

_HERE = Place(5)


class _Forgetful(Registrar):
    """Keeps no used nonces."""

    def _use(self, aggregator: bytes, server_round: int, member: int, nonce: bytes) -> None:
        return


def replay(guarded: bool) -> AttackOutcome:
    """Hand the registrar a member's ticket twice."""
    parties = labels()
    if not guarded:
        parties.registrar.__class__ = _Forgetful
    ticket = parties.ticket(3, _HERE, SOME)
    parties.registrar.access(parties.name, _HERE, ticket)
    return _tell("replay", guarded, lambda: parties.registrar.access(parties.name, _HERE, ticket))


def other_round(guarded: bool) -> AttackOutcome:
    """Hand in a ticket of the round before.

    Control: the round is read off the ticket, as if the aggregator had none open.
    """
    parties = labels()
    ticket = parties.ticket(3, Place(4), SOME)
    parties.place = _HERE
    place = _HERE if guarded else Place(4)
    return _tell(
        "other-round", guarded, lambda: parties.registrar.access(parties.name, place, ticket)
    )


def reflection(guarded: bool) -> AttackOutcome:
    """Answer a member with its own tag instead of the registrar's confirmation.

    Control: tags name no purpose, ``HMAC(K, P | N_u)`` for access and ``HMAC(K, N_h | N_u)`` to
    confirm it; with N_h = P one is the other.
    """
    parties = labels()
    sent = Ticket.from_bytes(parties.ticket(3, _HERE, SOME))
    if not guarded:
        key = parties.registrar.credential(3).key
        tag = hmac.digest(key, sent.label + sent.nonce, "sha256")
        registrar_nonce, answer = sent.label, tag
        wanted = hmac.digest(key, registrar_nonce + sent.nonce, "sha256")
        fooled = hmac.compare_digest(wanted, answer)
    else:
        told = Receipt(sent.label, sent.tag, sent.tag)
        fooled = parties.members[3].accepts(told)
    evidence = "the member takes it for the registrar" if fooled else "refused: no confirmation"
    return AttackOutcome("reflection", guarded, fooled, float(fooled), evidence)


def swapped_aggregator(guarded: bool) -> AttackOutcome:
    """Let a second aggregator hand in a ticket that was meant for the first.

    Control: the registrar believes what the ticket says, not the channel that it came by.
    """
    parties = labels()
    second = aggregator_id("second")
    parties.registrar.aggregators[second] = bytes(KEY)
    ticket = parties.ticket(3, _HERE, SOME)
    asks = second if guarded else Ticket.from_bytes(ticket).aggregator
    return _tell(
        "swapped-aggregator", guarded, lambda: parties.registrar.access(asks, _HERE, ticket)
    )


def wrong_epoch(guarded: bool) -> AttackOutcome:
    """Come with a label of three epochs ago: of one who left, or who was listened to then.

    Control: the registrar's clock stands still, so that labels never end.
    """
    parties = labels()
    old = _HERE.server_round - 3
    if not guarded:
        parties.registrar.clock = lambda: old
    member = parties.members[3]
    clock, member.clock = member.clock, lambda: old
    ticket = parties.ticket(3, _HERE, SOME)
    member.clock = clock
    return _tell(
        "wrong-epoch", guarded, lambda: parties.registrar.access(parties.name, _HERE, ticket)
    )


def forged_ticket(guarded: bool) -> AttackOutcome:
    """Send an update under a group's label without any member's key.

    Control: whoever knows a label is taken for a member.
    """
    parties = labels()
    seed = parties.registrar.groups[0].seed
    label = label_of(seed, _HERE.server_round, 0)
    parties.place = _HERE
    forged = Ticket(parties.name, _HERE, label, bytes(NONCE), SOME)
    if not guarded:
        known = parties.registrar.labels.find(label, _HERE.server_round) is not None
        return AttackOutcome("forged-ticket", guarded, known, float(known), "the label is known")
    return _tell(
        "forged-ticket",
        guarded,
        lambda: parties.registrar.access(parties.name, _HERE, forged.to_bytes()),
    )


def forged_handle(guarded: bool) -> AttackOutcome:
    """Change the handle in the registrar's answer on its way to the aggregator.

    Control: answers bear no seal. The attacker gives one member a second handle.
    """
    parties = labels()
    name, seal = parties.name, parties.seal

    def ask(place: Place, raw: bytes) -> Answer:
        answer = parties.registrar.access(name, place, raw)
        forged = replace(answer, handle=bytes(len(answer.handle)))
        return forged if guarded else replace(forged, seal=forged.seal_under(seal, place, raw))

    door = Aggregator(name, seal, ask)
    door.open(_HERE)
    ticket = parties.ticket(3, _HERE, OTHER)
    return _tell("forged-handle", guarded, lambda: door.receive(_HERE, ticket, OTHER))


def swapped_update(guarded: bool) -> AttackOutcome:
    """Put another update beside a member's ticket.

    Control: the aggregator does not compare the ticket with what came with it.
    """
    parties = labels()
    ticket = parties.ticket(3, _HERE, SOME)

    def admit() -> None:
        if guarded:
            parties.receive(_HERE, ticket, OTHER)
        else:
            parties.registrar.access(parties.name, _HERE, ticket)

    return _tell("swapped-update", guarded, admit)


def _tell(name: str, guarded: bool, attempt: Callable[[], object]) -> AttackOutcome:
    try:
        attempt()
    except NotAdmittedError as error:
        return AttackOutcome(name, guarded, False, 0.0, f"refused: {error.reason}")
    return AttackOutcome(name, guarded, True, 1.0, "admitted")
