"""What clients claim in their answers to unlearning's instructions, read without trusting it."""

from __future__ import annotations

import math

import torch
from flwr.app import ConfigRecord, Message
from torch import Tensor

from fedguard.unlearning.instructions import CONTRIBUTIONS, COUNTS, from_record
from fedguard.unlearning.method import Activations

BYTES = 4
"""Bytes of a number on the wire."""

_MOST_ACTIVATION = 1e15


def claimed_rows(message: Message) -> tuple[float, float]:
    """Return how many rows a client says went forward and back, and forward alone."""
    counts = message.content.config_records.get(COUNTS) or ConfigRecord()
    return _count(counts, "trained"), _count(counts, "forwarded")


def _count(record: ConfigRecord, name: str) -> float:
    """Return a count that a client claims, 0 where it claims nothing sensible."""
    value = record.get(name)
    good = isinstance(value, int | float) and math.isfinite(value) and value >= 0
    return float(value) if good and isinstance(value, int | float) else 0.0


def array_bytes(message: Message) -> int:
    """Return the bytes of all arrays of a reply."""
    records = message.content.array_records.values()
    return sum(BYTES * math.prod(array.shape) for record in records for array in record.values())


def read_contributions(message: Message, units: int) -> Tensor | None:
    """Return what a requester's units contributed, None where it is nothing that could be so."""
    try:
        given = message.content.config_records[CONTRIBUTIONS]["mean"]
        values = torch.tensor(given, dtype=torch.float64)
    except (KeyError, TypeError, ValueError, RuntimeError):
        return None
    sane = torch.isfinite(values) & (values >= 0) & (values < _MOST_ACTIVATION)
    known = tuple(values.shape) == (units,) and bool(sane.all()) and bool(values.any())
    return values if known else None


def read_activations(message: Message, classes: int, units: int) -> Activations | None:
    """Return what a client measured, None where it is nothing a measurement could give."""
    wanted = {
        "forget-sums": (classes, units),
        "forget-counts": (classes,),
        "retain-sums": (classes, units),
        "retain-counts": (classes,),
    }
    try:
        found = from_record(message.content.array_records["activations"])
        tensors = [found[name].double() for name in wanted]
    except (KeyError, TypeError, ValueError):
        return None
    for tensor, shape in zip(tensors, wanted.values(), strict=True):
        sane = torch.isfinite(tensor) & (tensor >= 0) & (tensor < _MOST_ACTIVATION)
        if tuple(tensor.shape) != shape or not bool(sane.all()):
            return None
    return Activations(*tensors)
