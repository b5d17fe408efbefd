"""The language between grids and defences: layouts, client updates and verdicts.

A grid hands the server the replies of one round; `ClientUpdates.from_replies` turns them into one
(clients x parameters) matrix of model deltas and sets malformed replies aside; a defence turns
that matrix into a `Verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import torch
from flwr.app import Message, MetricRecord
from torch import Tensor

from fedguard.layout import ParameterLayout, TensorArray
from fedguard.update_store import StoredRows

__all__ = [
    "MAX_EXAMPLES",
    "MAX_MAGNITUDE",
    "ClientUpdates",
    "ParameterLayout",
    "StackedReplies",
    "TensorArray",
    "Verdict",
]

MAX_MAGNITUDE = 1e10
"""Largest absolute value of a delta's entry that is taken for a number a training could produce."""

MAX_EXAMPLES = 10**9
"""Largest number of examples a client is believed to hold."""


class StackedReplies(list[Message]):
    """Replies of one round that carry their model deltas as one matrix.

    Grids that train in this process return it, so that a defence need not unpack messages. Rows
    are in the order of the list. Anything that rewrites a reply must rewrite the row as well.

    Parameters
    ----------
    messages : iterable of Message
        The replies as ordinary Flower messages.
    deltas : Tensor or StoredRows
        (K, D) float32, client model minus global model, in memory or in a file.
    num_examples : Tensor
        (K,) float64, as claimed.
    layout : ParameterLayout
        Layout of the rows.
    """

    def __init__(
        self,
        messages: Iterable[Message],
        deltas: Tensor | StoredRows,
        num_examples: Tensor,
        layout: ParameterLayout,
    ) -> None:
        super().__init__(messages)
        self.deltas = deltas
        self.num_examples = num_examples
        self.layout = layout


@dataclass(frozen=True)
class ClientUpdates:
    """The well-formed updates of one round, and why the others were set aside.

    Attributes
    ----------
    deltas : Tensor
        (K, D) float32, client model minus global model, trainable parameters first. Every entry is
        finite and at most `MAX_MAGNITUDE`. In a round whose updates are larger than the memory they
        may take, `StoredRows` stand here; only rules whose traits say ``blocks`` are then run.
    num_examples : Tensor
        (K,) float64, at least 1, as claimed by the clients; claims can lie.
    node_ids : tuple of int
        (K,) who sent each row.
    global_vector : Tensor
        (D,) float32, the model the clients started from.
    layout : ParameterLayout
        Names, shapes and offsets of the D entries.
    malformed : dict of int to str
        Node id to the reason why its reply was set aside.
    remarks : dict of int to str
        Node id to what else was odd about a reply that counts, such as a second reply.
    server_round : int
        The round the updates belong to.
    """

    deltas: Tensor
    num_examples: Tensor
    node_ids: tuple[int, ...]
    global_vector: Tensor
    layout: ParameterLayout
    malformed: dict[int, str] = field(default_factory=dict)
    remarks: dict[int, str] = field(default_factory=dict)
    server_round: int = 0

    def __len__(self) -> int:
        return len(self.node_ids)

    @property
    def trainable(self) -> Tensor:
        """(K, T) view of the trainable parameters' deltas, without buffers."""
        return self.deltas[:, : self.layout.num_trainable]

    @cached_property
    def shared(self) -> dict[str, Tensor]:
        """What was computed from these updates and serves more than once in a round, by name.

        Starts empty; see `fedguard.strategies.toolkit.distances.shared_gram` and its like.
        """
        return {}

    @property
    def all_same(self) -> bool:
        """Whether three clients or more sent one and the same update, as no three train it."""
        if len(self) < 3 or not bool(self.deltas[0].any()):
            return False
        return all(torch.equal(row, self.deltas[0]) for row in self.deltas[1:])

    def select(self, rows: Sequence[int] | Tensor) -> ClientUpdates:
        """Return the updates of the given rows, in that order; rows of a file are read."""
        index = torch.as_tensor(rows, dtype=torch.long)
        chosen: Tensor | StoredRows = self.deltas[index]
        return ClientUpdates(
            deltas=chosen if isinstance(chosen, Tensor) else chosen.tensor(),
            num_examples=self.num_examples[index],
            node_ids=tuple(self.node_ids[int(row)] for row in index),
            global_vector=self.global_vector,
            layout=self.layout,
            server_round=self.server_round,
        )

    @classmethod
    def from_matrix(
        cls,
        deltas: Tensor | np.ndarray | StoredRows,
        num_examples: Tensor | np.ndarray | Sequence[float] | None = None,
        node_ids: Sequence[int] | None = None,
        global_vector: Tensor | None = None,
        layout: ParameterLayout | None = None,
        *,
        malformed: Mapping[int, str] | None = None,
        remarks: Mapping[int, str] | None = None,
        server_round: int = 0,
    ) -> ClientUpdates:
        """Build updates from a (K, D) matrix; rows that are no sane update are set aside.

        Parameters
        ----------
        deltas : Tensor, ndarray or StoredRows
            (K, D), client model minus global model.
        num_examples : array of float, optional
            (K,) claims; 1 each if left out.
        node_ids : sequence of int, optional
            (K,) ids; 0 to K - 1 if left out.
        global_vector : Tensor, optional
            (D,) the global model; zeros if left out.
        layout : ParameterLayout, optional
            Names and shapes; one anonymous vector if left out.
        malformed, remarks : mapping of int to str, optional
            Reasons known from before, kept.
        server_round : int
            The round the updates belong to.
        """
        stored = isinstance(deltas, StoredRows)
        # Stored rows stand in for a matrix wherever rules read them in blocks.
        matrix = cast(Tensor, deltas) if stored else torch.as_tensor(deltas)
        if matrix.ndim != 2:
            raise ValueError(f"deltas must be a (clients, parameters) matrix, not {matrix.ndim}-d")
        if not stored:
            matrix = matrix.detach().to(torch.float32)
        count, size = matrix.shape
        ids = tuple(range(count)) if node_ids is None else tuple(int(node) for node in node_ids)
        claims = (
            torch.ones(count, dtype=torch.float64)
            if num_examples is None
            else torch.as_tensor(num_examples, dtype=torch.float64)
        )
        if len(ids) != count or claims.shape != (count,):
            raise ValueError(f"{count} rows need {count} node ids and {count} num_examples")
        reasons = dict(malformed or {})
        good = []
        for row, (node, reason) in enumerate(zip(ids, _row_faults(matrix, claims), strict=True)):
            if reason is None:
                good.append(row)
            else:
                reasons[node] = reason
        if len(good) < count:
            matrix, claims = matrix[good], claims[good]
        return cls(
            deltas=matrix,
            num_examples=claims,
            node_ids=tuple(ids[row] for row in good),
            global_vector=torch.zeros(size) if global_vector is None else global_vector,
            layout=ParameterLayout.flat(size) if layout is None else layout,
            malformed=reasons,
            remarks=dict(remarks or {}),
            server_round=server_round,
        )

    @classmethod
    def from_replies(
        cls,
        replies: Iterable[Message],
        global_vector: Tensor,
        layout: ParameterLayout,
        *,
        expected: Iterable[int] | None = None,
        weighted_by_key: str = "num-examples",
        server_round: int = 0,
        wide: Mapping[str, np.ndarray] | None = None,
    ) -> ClientUpdates:
        """Stack the replies of one round; costs nothing for `StackedReplies`.

        Rows are sorted by node id, so that the order of arrival decides nothing.

        Parameters
        ----------
        replies : iterable of Message
            What the grid returned.
        global_vector : Tensor
            (D,) the model that was sent out.
        layout : ParameterLayout
            Its layout.
        expected : iterable of int, optional
            Node ids that were asked; those that did not answer are recorded.
        weighted_by_key : str
            Name of the metric that holds the number of examples.
        server_round : int
            The current round.
        wide : mapping of str to ndarray, optional
            The float64 tensors that were sent out; their deltas are taken in float64.
        """
        messages = list(replies)
        asked = None if expected is None else set(expected)
        chosen, malformed, remarks = _sort_out(messages, asked)
        nodes = sorted(chosen)
        if isinstance(replies, StackedReplies) and replies.layout == layout:
            rows = [chosen[node] for node in nodes]
            whole = rows == list(range(len(messages)))
            matrix: Tensor | StoredRows = replies.deltas if whole else replies.deltas[rows]
            claims = replies.num_examples if whole else replies.num_examples[rows]
        else:
            read = torch.empty(len(nodes), layout.size)
            examples: list[float] = []
            kept: list[int] = []
            for node in nodes:
                try:
                    claim = _read_claim(messages[chosen[node]], weighted_by_key)
                    _read_model(messages[chosen[node]], layout, read[len(kept)], wide or {})
                except Exception as error:  # bytes from outside can fail in any way
                    malformed[node] = _reason(error)
                    continue
                examples.append(claim)
                kept.append(node)
            nodes = kept
            matrix = read[: len(kept)]
            matrix -= layout.without_entries(global_vector, wide) if wide else global_vector
            claims = torch.tensor(examples, dtype=torch.float64)
        return cls.from_matrix(
            matrix,
            claims,
            nodes,
            global_vector,
            layout,
            malformed=malformed,
            remarks=remarks,
            server_round=server_round,
        )


def _row_faults(matrix: Tensor | StoredRows, claims: Tensor) -> list[str | None]:
    """Return for each row why it is no sane update, or None; reads the matrix once."""
    if isinstance(matrix, StoredRows):
        peak = matrix.peaks
    elif matrix.shape[1] == 0:
        peak = torch.zeros(len(matrix))
    else:
        # Both propagate NaN, and need no copy of the matrix as abs() would.
        low, high = matrix.aminmax(dim=1)
        peak = torch.maximum(-low, high)
    faults: list[str | None] = []
    for value, claim in zip(peak.tolist(), claims.tolist(), strict=True):
        if math.isnan(value):
            faults.append("not a number (NaN) in the update")
        elif math.isinf(value):
            faults.append("infinite value in the update")
        elif value > MAX_MAGNITUDE:
            faults.append(f"value of size {value:.1e} in the update")
        elif not 1 <= claim <= MAX_EXAMPLES:
            faults.append(f"num-examples of {claim:g}")
        else:
            faults.append(None)
    return faults


def _sort_out(
    messages: Sequence[Message], asked: set[int] | None
) -> tuple[dict[int, int], dict[int, str], dict[int, str]]:
    """Return which message counts for each node, who is set aside and what was odd."""
    chosen: dict[int, int] = {}
    malformed: dict[int, str] = {}
    remarks: dict[int, str] = {}
    for position, message in enumerate(messages):
        node = message.metadata.src_node_id
        if asked is not None and node not in asked:
            malformed[node] = "reply from a client that was not asked"
        elif node in chosen or node in malformed:
            remarks[node] = "sent more than one reply; the first counts"
        elif message.has_error():
            malformed[node] = f"error reply: {message.error.reason}"[:200]
        else:
            chosen[node] = position
    for node in sorted((asked or set()) - chosen.keys() - malformed.keys()):
        malformed[node] = "no reply"
    return chosen, malformed, remarks


def _read_claim(message: Message, weighted_by_key: str) -> float:
    records = list(message.content.metric_records.values())
    if len(records) != 1:
        raise ValueError(f"{len(records)} metric records, expected 1")
    record: MetricRecord = records[0]
    if weighted_by_key not in record:
        raise ValueError(f"no {weighted_by_key} in the metrics")
    claim = record[weighted_by_key]
    if isinstance(claim, list):
        raise ValueError(f"{weighted_by_key} is a list")
    return float(claim)


def _read_model(
    message: Message, layout: ParameterLayout, out: Tensor, wide: Mapping[str, np.ndarray]
) -> None:
    records = list(message.content.array_records.values())
    if len(records) != 1:
        raise ValueError(f"{len(records)} array records, expected 1")
    record = layout.named(records[0])
    if missing := [name for name in layout.names if name not in record]:
        raise ValueError(f"missing array {missing[0]!r}")
    if extra := [name for name in record if name not in layout.record_names]:
        raise ValueError(f"unexpected array {extra[0]!r}")
    tensors: dict[str, np.ndarray] = {}
    switches = {n for n, kind in zip(layout.names, layout.dtypes, strict=True) if kind == "bool"}
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        # The header's shape is a claim as well; np.load checks it against the bytes it has.
        if tuple(record[name].shape) != shape:
            raise ValueError(f"{name} has shape {tuple(record[name].shape)}, expected {shape}")
        array = record[name].numpy()
        truth = array.dtype.kind == "b" and name in switches
        if array.dtype.kind not in "fiu" and not truth:
            raise ValueError(f"{name} holds {array.dtype}, expected numbers")
        tensors[name] = array - wide[name] if name in wide else array
    out.copy_(layout.flatten(tensors))


def _reason(error: Exception) -> str:
    text = str(error.args[0]) if error.args else type(error).__name__
    return " ".join(text.split())[:200]


@dataclass(frozen=True)
class Verdict:
    """What a defence decided about one round.

    Attributes
    ----------
    delta : Tensor
        (D,) float32, what the server adds to the global model.
    weights : Tensor
        (K,) share of each client in `delta`; 0 means rejected.
    scores : dict of str to Tensor
        Each (K,): what the defence measured, named as in its paper.
    reasons : dict of int to str
        Node id to why the client was rejected.
    """

    delta: Tensor
    weights: Tensor
    scores: dict[str, Tensor] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
