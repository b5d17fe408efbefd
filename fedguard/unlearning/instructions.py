"""What the server tells clients during unlearning, as Flower messages and records.

=====================  ========================================================================
message type           the client ...
=====================  ========================================================================
``train.unlearn``      climbs the loss on its forgotten rows and sends the model and, if asked,
                       how much each unit contributed to their labels before
``query.activations``  sends sums of its units' activations by class, forgotten rows apart
``train``              trains as ever, without the rows that the record `RECORD` names
=====================  ========================================================================
"""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fedguard.config.requests import UnlearnRequest
from fedguard.unlearning.climbing import AscentSettings

ASCEND = "train.unlearn"
ACTIVATIONS = "query.activations"
RECORD = "fedguard.unlearn"
HELD_OUT = "held-out"
COUNTS = "unlearning"
CONTRIBUTIONS = "contributions"

_LABEL = "label"
_SHARE = "share"
_FORGETS = "forgets"
_EPOCHS = "local-epochs"


def rows_record(request: UnlearnRequest | None, local_epochs: int | None = None) -> ConfigRecord:
    """Return the record that names which of its rows a client forgets, and how long it trains."""
    record = ConfigRecord({_FORGETS: request is not None})
    if request is not None and request.label is not None:
        record[_LABEL] = request.label
    if request is not None and request.share is not None:
        record[_SHARE] = request.share
    if local_epochs is not None:
        record[_EPOCHS] = local_epochs
    return record


def named_rows(content: RecordDict) -> tuple[bool, int | None, float | None]:
    """Return whether an instruction names rows to forget, and by which label or share."""
    record = content.config_records.get(RECORD)
    if record is None or not record.get(_FORGETS):
        return False, None, None
    label, share = record.get(_LABEL), record.get(_SHARE)
    return (
        True,
        label if isinstance(label, int) else None,
        share if isinstance(share, float) else None,
    )


def named_epochs(content: RecordDict) -> int | None:
    """Return how many local epochs an instruction asks for, None for as many as ever."""
    record = content.config_records.get(RECORD)
    value = None if record is None else record.get(_EPOCHS)
    return value if isinstance(value, int) else None


def ascend_content(
    arrays: ArrayRecord,
    request: UnlearnRequest,
    settings: AscentSettings,
    held: tuple[Tensor, Tensor] | None,
    server_round: int,
    *,
    contributions: bool = False,
) -> RecordDict:
    """Return the content of a `ASCEND` instruction."""
    entries: dict[str, Any] = {**settings.to_config(), "server-round": server_round}
    entries[CONTRIBUTIONS] = contributions
    records: dict[str, Any] = {
        "arrays": arrays,
        "config": ConfigRecord(entries),
        RECORD: rows_record(request),
    }
    if held is not None:
        records[HELD_OUT] = to_record({"x": held[0], "y": held[1]})
    return RecordDict(records)


def activations_content(
    arrays: ArrayRecord, request: UnlearnRequest | None, server_round: int
) -> RecordDict:
    """Return the content of an `ACTIVATIONS` instruction."""
    config = ConfigRecord({"server-round": server_round})
    return RecordDict({"arrays": arrays, "config": config, RECORD: rows_record(request)})


def to_record(tensors: dict[str, Tensor]) -> ArrayRecord:
    """Return named tensors as an array record."""
    return ArrayRecord({name: Array(value.cpu().numpy()) for name, value in tensors.items()})


def from_record(record: ArrayRecord) -> dict[str, Tensor]:
    """Return the tensors of an array record."""
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}


def is_unlearning(message: Message) -> bool:
    """Return whether an instruction is one of the two that only unlearning sends."""
    return message.metadata.message_type in (ASCEND, ACTIVATIONS)
