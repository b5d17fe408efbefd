"""Protocol messages as Flower records, and the records that a client's memory is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import cast

from flwr.app import ConfigRecord, Message, RecordDict

from fedguard.encryption.protocol.agreement import Payload
from fedguard.encryption.protocol.ledger import LEDGER
from fedguard.encryption.protocol.ledger_file import LedgerFile

PREFIX = "fedguard.encryption."
STAGES = ("dispute", "check", "confirm", "share", "encrypt", "commit", "reveal", "probe")
"""Order in which a client answers the stages of one message: this round's before the next's."""
REFUSED = "refused"
"""Field of a reply that says why a client refused."""
ACCUSED = "accused"
"""Field of a refusal that names the client whose message was wrong."""
DISPUTED = "disputed"
"""Field of a refusal that says that the sum was not what the contributors tagged."""

Requests = Mapping[str, Mapping[str, object]]
"""Stage to request or reply."""


def to_records(stages: Mapping[str, Payload]) -> RecordDict:
    """Return one config record per stage."""
    return RecordDict(
        {PREFIX + stage: ConfigRecord(dict(payload)) for stage, payload in stages.items()}
    )


def stages_of(content: RecordDict) -> dict[str, Mapping[str, object]]:
    """Return the stages that a message's content holds."""
    return {
        stage: cast("Mapping[str, object]", content.config_records[PREFIX + stage])
        for stage in STAGES
        if PREFIX + stage in content.config_records
    }


def round_of(stages: Requests) -> int:
    """Return the round that a message with a model asks to train for; -1 if it names none."""
    for stage in ("encrypt", "commit"):
        value = stages.get(stage, {}).get("round")
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return -1


def without_stages(message: Message) -> Message:
    """Return the instruction that is left when the protocol's records are taken out."""
    return Message(
        plain_content(message),
        dst_node_id=message.metadata.dst_node_id,
        message_type=message.metadata.message_type,
        group_id=message.metadata.group_id,
        ttl=message.metadata.ttl,
    )


def plain_content(message: Message) -> RecordDict:
    """Return a message's records without those of the protocol."""
    return RecordDict(
        {name: record for name, record in message.content.items() if not name.startswith(PREFIX)}
    )


class RecordMemory(MutableMapping[str, Payload]):
    """A client's memory kept in its Flower context, which stays with the client.

    Parameters
    ----------
    state : RecordDict
        ``context.state``.
    prefix : str
        Start of the names of its records there.
    ledger : LedgerFile, optional
        Where the ledger alone lies as well: a client that lost its context must not lose what it
        let go of.
    """

    def __init__(self, state: RecordDict, prefix: str, ledger: LedgerFile | None = None) -> None:
        self._records = state.config_records
        self._prefix = prefix
        self._file = ledger
        found = None if ledger is None else ledger.read()
        if found is not None:
            self._records[prefix + LEDGER] = ConfigRecord(dict(found))

    def __getitem__(self, label: str) -> Payload:
        return cast("Payload", dict(self._records[self._prefix + label]))

    def __setitem__(self, label: str, payload: Payload) -> None:
        if label == LEDGER and self._file is not None:
            self._file.write(payload)
        self._records[self._prefix + label] = ConfigRecord(dict(payload))

    def __delitem__(self, label: str) -> None:
        del self._records[self._prefix + label]

    def __iter__(self) -> Iterator[str]:
        names = [name for name in self._records if name.startswith(self._prefix)]
        return iter([name.removeprefix(self._prefix) for name in names])

    def __len__(self) -> int:
        return sum(1 for _ in self)
