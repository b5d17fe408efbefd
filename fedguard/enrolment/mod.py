"""The clients' side of anonymous enrolment as a mod of a Flower ClientApp."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.serde import recorddict_to_proto

from fedguard.enrolment.digests import content_digest
from fedguard.enrolment.files import read_credential
from fedguard.enrolment.member import Member
from fedguard.enrolment.reasons import NO_ANSWER, REPEATED, NotAdmittedError
from fedguard.enrolment.tickets import Place, Receipt
from fedguard.enrolment.wire import ask, client_context

INSTRUCTION = "fedguard.enrolment"
"""Record of an instruction that says where to hand in, and of the acknowledgement."""

CREDENTIAL, AUTHORITY = "fedguard-credential", "fedguard-authority"
"""Keys of a SuperNode's ``--node-config``: its credential, and the certificate of the authority."""

ATTEMPTS = 5
LONGEST = 60.0
"""How often an update is handed in, and the longest that a server may make its clients wait."""

_Value = TypeVar("_Value", int, float, str, bytes)


def enrolment_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Train, hand the update in under no name, and answer with an empty acknowledgement.

    A client that holds a credential never sends an update under its node's name: an instruction
    that does not say where to hand in is refused. Clients without a credential are left alone.
    The acknowledgement is the same whatever came of it: what the door said belongs to a handle, and
    must not arrive beside a node's name.
    """
    path = context.node_config.get(CREDENTIAL)
    if message.metadata.message_type != MessageType.TRAIN or path is None:
        return call_next(message, context)
    told = message.content.config_records.get(INSTRUCTION)
    if told is None:
        raise ValueError("an enrolled client sends no update under its node's name")
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    place = Place(_read(told, "round", int), _read(told, "exchange", int))
    member = Member(read_credential(Path(str(path))), _epoch(place), secrets.token_bytes)
    spread = min(max(_read(told, "spread", float), 0.0), LONGEST)
    authority = Path(str(context.node_config[AUTHORITY]))
    _pause(spread)
    hand_in(
        member,
        _read(told, "aggregator", bytes),
        place,
        reply.content,
        _door(_read(told, "address", str), authority),
    )
    _pause(spread)
    return Message(RecordDict({INSTRUCTION: ConfigRecord({"done": True})}), reply_to=message)


def hand_in(
    member: Member,
    aggregator: bytes,
    place: Place,
    content: RecordDict,
    post: Callable[[bytes], bytes],
) -> str | None:
    """Hand an update in, again where an answer is lost; return why it is not in, None where it is.

    Parameters
    ----------
    member : Member
        Makes the tickets; a fresh one for every attempt.
    aggregator, place
        See `Member.ticket`.
    content : RecordDict
        The update.
    post : callable
        Sends a body to the door and returns its answer, or raises `NotAdmittedError`.
    """
    digest, payload = content_digest(content), recorddict_to_proto(content).SerializeToString()
    why: str | None = NO_ANSWER
    for _ in range(ATTEMPTS):
        try:
            receipt = post(member.ticket(aggregator, place, digest) + payload)
            if member.accepts(Receipt.from_bytes(receipt)):
                return None
        except NotAdmittedError as error:
            why = error.reason
            if why == REPEATED:
                return None
            if why != NO_ANSWER:
                return why
        time.sleep(0.2)
    return why


def _door(address: str, authority: Path) -> Callable[[bytes], bytes]:
    context = client_context(authority)
    return lambda body: ask(address, context, "/update", body)


def _epoch(place: Place) -> Callable[[], int]:
    return lambda: place.server_round


def _pause(spread: float) -> None:
    """Wait for a random while: moments must not pair an acknowledgement with an update."""
    time.sleep(spread * secrets.randbelow(10**6) / 10**6)


def _read(record: ConfigRecord, name: str, kind: type[_Value]) -> _Value:
    value = record.get(name)
    if not isinstance(value, kind):
        raise ValueError(f"the instruction to hand in has no {name}")
    return value
