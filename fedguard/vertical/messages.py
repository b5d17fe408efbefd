"""What label holder and parties write to each other, as Flower records."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

EMBED = "embed"
LEARN = "gradient"
SETTLE = "settle"
STATE = "state"
RESTORE = "restore"

TENSORS = "tensors"
FACTS = "facts"

Fact = int | float | str | bool


def content(tensors: Mapping[str, Tensor] | None = None, **facts: Fact) -> RecordDict:
    """Return the content of a message: named tensors and plain facts."""
    arrays = {
        name: Array(value.detach().cpu().contiguous().numpy())
        for name, value in (tensors or {}).items()
    }
    return RecordDict({TENSORS: ArrayRecord(arrays), FACTS: ConfigRecord(dict(facts))})


def tensors_of(message: Message) -> dict[str, Tensor]:
    """Return the tensors of a message.

    Raises
    ------
    KeyError, ValueError, TypeError
        If the content is not one of ours.
    """
    record = message.content.array_records[TENSORS]
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}


def facts_of(message: Message) -> ConfigRecord:
    """Return the facts of a message."""
    return message.content.config_records[FACTS]
