"""Training messages of any app as vectors: today's records, and those of Flower's older API.

The older API sends arrays without names, shapes or types; what their bytes say is filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from torch import Tensor

from fedguard.grids.messages import server_round_of
from fedguard.layout import ParameterLayout

OLDER_MODEL = "fitins.parameters"
"""Array record of a training instruction of the older API."""

OLDER_METRICS = "fitres.metrics"
"""Config record in which a reply of the older API has its metrics ..."""

OLDER_EVALUATION = "evaluateres.metrics"
"""... and in which it has those of its evaluation, beside what it says in metric records."""

_EMPTY = "_empty"


def trains(message: Message) -> bool:
    """Return whether a message is an instruction to train, with a model in it."""
    kind = str(message.metadata.message_type).partition(".")[0]
    return (
        kind == MessageType.TRAIN and message.has_content() and bool(message.content.array_records)
    )


def evaluates(message: Message) -> bool:
    """Return whether a message is an instruction to evaluate."""
    kind = str(message.metadata.message_type).partition(".")[0]
    return kind == MessageType.EVALUATE and message.has_content()


def is_older(message: Message) -> bool:
    """Return whether a training instruction is one of Flower's older API."""
    return OLDER_MODEL in message.content.array_records


def round_of(message: Message, default: int) -> int:
    """Return the server round that a training instruction names; the older API's is a group."""
    group = str(message.metadata.group_id)
    return server_round_of(message, int(group) if group.isdecimal() else default)


def solid(record: ArrayRecord) -> ArrayRecord:
    """Return a record whose arrays say their shape and type; those that do are left alone."""
    if all(array.dtype for array in record.values()):
        return record
    return ArrayRecord(
        {
            name: array if array.dtype else Array(array.numpy())
            for name, array in record.items()
            if name != _EMPTY
        }
    )


def model_of(content: RecordDict, records: Sequence[str] = ()) -> ArrayRecord:
    """Return the arrays of a message as one record.

    Parameters
    ----------
    content : RecordDict
        An instruction's or a reply's.
    records : sequence of str
        Names of the array records that make up the model where they are several; a single one
        may have any name.

    Raises
    ------
    ValueError
        If the message has other array records than those.
    """
    found = content.array_records
    if len(records) < 2:
        if len(found) != 1:
            raise ValueError(f"{len(found)} array records, expected 1")
        return solid(next(iter(found.values())))
    if set(found) != set(records):
        raise ValueError(f"array records {sorted(found)}, expected {sorted(records)}")
    parts = {record: solid(found[record]) for record in records}
    return ArrayRecord(
        {f"{record}/{name}": a for record, part in parts.items() for name, a in part.items()}
    )


def put_model(content: RecordDict, layout: ParameterLayout, vector: Tensor) -> None:
    """Write a (D,) model into a message's array records, under the names that it has there."""
    arrays = list(layout.to_arrays(vector).values())
    names = [(record, name) for record, part in content.array_records.items() for name in part]
    if len(content.array_records) > 1:
        order = {name: place for place, name in enumerate(layout.record_names)}
        arrays = [arrays[order[f"{record}/{name}"]] for record, name in names]
    elif layout.named(content.array_records[names[0][0]]) is content.array_records[names[0][0]]:
        order = {name: place for place, name in enumerate(layout.record_names)}
        arrays = [arrays[order[name]] for _, name in names]
    written: dict[str, dict[str, Array]] = {}
    for (record, name), array in zip(names, arrays, strict=True):
        written.setdefault(record, {})[name] = Array(np.ascontiguousarray(array.numpy()))
    for record, part in written.items():
        content[record] = ArrayRecord(part)


def claims_of(content: RecordDict) -> dict[str, Any]:
    """Return the numbers of a reply's metric records, by name."""
    return {
        name: value for record in content.metric_records.values() for name, value in record.items()
    }


def metrics_of(content: RecordDict) -> dict[str, Any]:
    """Return what a reply reports beside its model, by name."""
    told = content.config_records.get(OLDER_METRICS)
    if told is not None:
        return dict(told)
    return {**claims_of(content), **content.config_records.get(OLDER_EVALUATION, {})}


def put_metrics(content: RecordDict, metrics: Mapping[str, Any]) -> None:
    """Write what a reply reports in the places where it reports it; the rest of it is left out."""
    told = metrics_of(content)

    def written(record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record's own names; one that another record has as well keeps its value."""
        own = {name: value for name, value in record.items() if name in metrics}
        return {n: metrics[n] if value == told[n] else value for n, value in own.items()}

    if OLDER_METRICS in content.config_records:
        content[OLDER_METRICS] = ConfigRecord(written(content.config_records[OLDER_METRICS]))
        return
    for name, record in content.metric_records.items():
        content[name] = MetricRecord(written(record))
    if OLDER_EVALUATION in content.config_records:
        content[OLDER_EVALUATION] = ConfigRecord(written(content.config_records[OLDER_EVALUATION]))
