"""`FaultyGrid`: the network that loses, spoils, doubles and delays what clients reply."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedguard.config import Faults
from fedguard.grids.base import WrappedGrid
from fedguard.grids.messages import EXAMPLES_KEY, LazyReply, arrays_of, server_round_of
from fedguard.layout import ParameterLayout, TensorArray
from fedguard.randomness import numpy_generator
from fedguard.updates import StackedReplies

DROPOUT, STRAGGLER, DELAYED, CORRUPT, DUPLICATE, LATE = (
    "dropout",
    "straggler",
    "delayed",
    "corrupt",
    "duplicate",
    "late",
)

CORRUPTIONS = ("bits", "nan", "infinity", "shape", "missing", "examples")
"""What can happen to a corrupted reply: flipped bits, a NaN, an infinity, a tensor of another
shape, a tensor that is missing, a number of examples that nobody holds."""

_ABSURD_EXAMPLES = (0.0, -5.0, 1e18, math.nan)
_FLIPS = 8
_UNREADABLE = 2


@dataclass(frozen=True)
class Fate:
    """What becomes of one client's reply in one round.

    Attributes
    ----------
    dropout : bool
        The client is down: it neither trains nor answers.
    seconds : float or None
        Simulated time that a straggler takes; None for a client that is not slow.
    late : bool
        Whether those seconds are beyond the deadline.
    delay : int
        Rounds by which the reply is late; 0 for none.
    corruption : str or None
        One of `CORRUPTIONS`.
    duplicate : bool
        Whether the reply arrives twice.
    places : tuple of float
        Where values are spoilt, as fractions of the model's length in [0, 1).
    bits : tuple of int
        Which bit of the 32 is flipped at each place.
    examples : float
        The claim of an ``"examples"`` corruption.
    """

    dropout: bool
    seconds: float | None
    late: bool
    delay: int
    corruption: str | None
    duplicate: bool
    places: tuple[float, ...]
    bits: tuple[int, ...]
    examples: float

    @classmethod
    def draw(cls, faults: Faults, seed: int, server_round: int, client: int) -> Fate:
        """Draw from the stream (seed, round, client, "faults"); other clients change nothing."""
        stream = numpy_generator(seed, server_round, client, "faults")
        # Every number is drawn whatever the rates are, so that one rate does not move another.
        chance = stream.random(5)
        seconds = faults.straggle_seconds * math.exp(
            faults.straggle_spread * stream.standard_normal()
        )
        delay = int(stream.integers(1, faults.delay_rounds + 1))
        kind = CORRUPTIONS[int(stream.integers(len(CORRUPTIONS)))]
        places = tuple(float(place) for place in stream.random(_FLIPS))
        bits = tuple(int(bit) for bit in stream.integers(0, 32, _FLIPS))
        claim = _ABSURD_EXAMPLES[int(stream.integers(len(_ABSURD_EXAMPLES)))]
        slow = bool(chance[1] < faults.straggle)
        return cls(
            dropout=bool(chance[0] < faults.dropout),
            seconds=seconds if slow else None,
            late=slow and seconds > faults.deadline,
            delay=delay if chance[2] < faults.delay else 0,
            corruption=kind if chance[3] < faults.corrupt else None,
            duplicate=bool(chance[4] < faults.duplicate),
            places=places,
            bits=bits,
            examples=claim,
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the faults that take effect; the first that loses the reply hides the rest."""
        if self.dropout:
            return (DROPOUT,)
        if self.late:
            return (STRAGGLER,)
        if self.delay:
            return (DELAYED,)
        happened = {CORRUPT: self.corruption is not None, DUPLICATE: self.duplicate}
        return tuple(kind for kind, yes in happened.items() if yes)

    @property
    def lost(self) -> bool:
        """Whether the reply does not arrive in its own round."""
        return self.dropout or self.late or self.delay > 0

    def describe(self, deadline: float) -> list[str]:
        """Return what happened in words, for the records."""
        words = {
            DROPOUT: "dropout",
            STRAGGLER: f"straggler: {self.seconds or 0:.1f} s, the deadline was {deadline:g} s",
            DELAYED: f"delayed by {self.delay} round{'s' if self.delay > 1 else ''}",
            CORRUPT: f"corrupt: {self.corruption}",
            DUPLICATE: "duplicate",
        }
        return [words[kind] for kind in self.kinds]


class FaultyGrid(WrappedGrid):
    """A grid around any other whose training replies get lost, spoilt, doubled or late.

    It goes around the coalition: the network treats everyone alike, liars included. A training
    call:

    1. draws every client's fate from the stream (seed, round, client, "faults");
    2. asks only the clients that are up;
    3. takes away the replies that miss the deadline or are delayed; a delayed one arrives in a
       later round;
    4. spoils and doubles replies among the others;
    5. sets aside what arrives late: it answers an instruction that is no longer open, and a grid
       hands on replies to its own instructions only, as Flower's does.

    No time passes: a straggler's seconds are simulated. The server learns nothing of all this but
    what arrives; the truth is kept in `truth` and `counts` for the records. Replies that carry
    their matrix keep it; a tensor that is missing or of another shape cannot stand in a matrix,
    so such a reply becomes an error reply there. Instructions other than training, and what goes
    through `push_messages`, pass unharmed.

    Parameters
    ----------
    inner : Grid
        Where clients run.
    faults : Faults
        How often what happens.
    seed : int
        Seed of the run.

    Attributes
    ----------
    truth : dict of int to str
        Client to what happened to its reply in the last training call.
    counts : dict of str to int
        How often each kind of fault took effect in it.
    """

    def __init__(self, inner: Grid, faults: Faults, seed: int) -> None:
        super().__init__(inner)
        self.faults = faults
        self.seed = seed
        self.truth: dict[int, str] = {}
        self.counts: dict[str, int] = {}
        self._in_flight: list[tuple[int, int, int]] = []
        self._calls = 0

    def state(self) -> dict[str, Tensor]:
        """Return what is in flight: (N, 3) arrival round, client, round it belongs to."""
        rows = torch.tensor(self._in_flight, dtype=torch.int64).reshape(-1, 3)
        return {"in_flight": rows}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put what was in flight back on its way."""
        rows = state.get("in_flight", torch.empty(0, 3, dtype=torch.int64)).tolist()
        self._in_flight = [(int(when), int(client), int(of)) for when, client, of in rows]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages; training instructions and their replies meet their fates."""
        instructions = list(messages)
        training = {m.metadata.dst_node_id: m for m in instructions if _trains(m)}
        if not training:
            return self.inner.send_and_receive(instructions, timeout=timeout)
        self._calls += 1
        server_round = server_round_of(next(iter(training.values())), self._calls)
        fates = {
            client: Fate.draw(self.faults, self.seed, server_round, client) for client in training
        }
        self._note(fates, server_round)
        up = [
            m for m in instructions if not _trains(m) or not fates[m.metadata.dst_node_id].dropout
        ]
        if not up:
            return []
        replies = self.inner.send_and_receive(up, timeout=timeout)
        if isinstance(replies, StackedReplies):
            return _stacked_after(replies, fates, training)
        return _after(list(replies), fates, training)

    def _note(self, fates: Mapping[int, Fate], server_round: int) -> None:
        """Keep the truth of this round, and let what is due arrive."""
        words = {client: fate.describe(self.faults.deadline) for client, fate in fates.items()}
        counts = Counter(kind for fate in fates.values() for kind in fate.kinds)
        for _, client, of in (item for item in self._in_flight if item[0] <= server_round):
            counts[LATE] += 1
            words.setdefault(client, []).append(f"late reply to round {of} set aside")
        self._in_flight = [item for item in self._in_flight if item[0] > server_round]
        for client, fate in fates.items():
            if fate.kinds == (DELAYED,):
                self._in_flight.append((server_round + fate.delay, client, server_round))
        self.truth = {client: "; ".join(texts) for client, texts in words.items() if texts}
        self.counts = dict(sorted(counts.items()))


def _trains(message: Message) -> bool:
    return message.metadata.message_type == MessageType.TRAIN and bool(
        message.content.array_records
    )


def _after(
    replies: Sequence[Message], fates: Mapping[int, Fate], training: Mapping[int, Message]
) -> list[Message]:
    """Return what arrives of ordinary replies; second copies come last."""
    arrived, again = [], []
    for reply in replies:
        client = reply.metadata.src_node_id
        fate = fates.get(client)
        if fate is None or reply.metadata.message_type != MessageType.TRAIN:
            arrived.append(reply)
            continue
        if fate.lost:
            continue
        if fate.corruption is not None and not reply.has_error():
            content = spoilt(reply.content, fate, training[client])
            reply = Message(content, reply_to=training[client])
        arrived.append(reply)
        if fate.duplicate:
            again.append(reply)
    return arrived + again


def _stacked_after(
    replies: StackedReplies, fates: Mapping[int, Fate], training: Mapping[int, Message]
) -> StackedReplies:
    """Return what arrives of replies that carry their matrix, as replies that carry theirs."""
    clients = [reply.metadata.src_node_id for reply in replies]
    rows = [row for row, client in enumerate(clients) if not fates[client].lost]
    examples = replies.num_examples.clone()
    arrived: list[Message] = []
    again: list[Message] = []
    for row in rows:
        client, reply = clients[row], replies[row]
        fate = fates[client]
        if fate.corruption is not None and not reply.has_error():
            own = replies.deltas[row]
            reply = _spoil_row(reply, fate, training[client], replies.layout, own)
            replies.deltas[row] = own  # a row that lies in a file was read from it
            if fate.corruption == "examples":
                examples[row] = fate.examples
        arrived.append(reply)
        if fate.duplicate:
            again.append(reply)
    whole = len(rows) == len(replies)
    deltas = replies.deltas if whole else replies.deltas[rows]
    return StackedReplies(arrived + again, deltas, examples[rows], replies.layout)


def _spoil_row(
    reply: Message, fate: Fate, instruction: Message, layout: ParameterLayout, row: Tensor
) -> Message:
    """Spoil a reply's row in place, which shows in the reply as well; return what arrives."""
    if fate.corruption in ("shape", "missing"):
        return Message(Error(_UNREADABLE, _unreadable(fate, layout)), reply_to=instruction)
    if fate.corruption == "examples":
        return LazyReply(instruction, lambda: spoilt(reply.content, fate, instruction))
    start = layout.vector_from_arrays(arrays_of(instruction))
    places, values = _spoilt_values(fate, start + row, layout)
    row[places] = values - start[places]
    return reply


def spoilt(content: RecordDict, fate: Fate, instruction: Message) -> RecordDict:
    """Return a training reply's content as its fate's corruption leaves it; a copy."""
    layout = ParameterLayout.from_arrays(arrays_of(instruction))
    change = _CONTENT_CHANGES.get(fate.corruption or "", _spoil_values)
    arrays = {name: ArrayRecord(dict(record)) for name, record in content.array_records.items()}
    metrics = {name: MetricRecord(dict(record)) for name, record in content.metric_records.items()}
    for record in arrays.values():
        change(record, fate, layout)
    if fate.corruption == "examples":
        for claims in metrics.values():
            claims[EXAMPLES_KEY] = fate.examples
    return RecordDict({**dict(content), **arrays, **metrics})


def _tensor_at(fate: Fate, layout: ParameterLayout) -> int:
    return int(fate.places[0] * layout.num_trainable_tensors)


def _unreadable(fate: Fate, layout: ParameterLayout) -> str:
    index = _tensor_at(fate, layout)
    name, shape = layout.names[index], layout.shapes[index]
    if fate.corruption == "missing":
        return f"missing array {name!r}"
    return f"{name} has shape {_other_shape(shape)}, expected {shape}"


def _other_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (math.prod(shape) + 1,)


def _reshape(record: ArrayRecord, fate: Fate, layout: ParameterLayout) -> None:
    index = _tensor_at(fate, layout)
    name, shape = layout.names[index], layout.shapes[index]
    record[name] = TensorArray(torch.zeros(_other_shape(shape)).numpy())


def _remove(record: ArrayRecord, fate: Fate, layout: ParameterLayout) -> None:
    record.pop(layout.names[_tensor_at(fate, layout)], None)


def _keep(record: ArrayRecord, fate: Fate, layout: ParameterLayout) -> None:
    """Leave the arrays as they are: the claim is what is spoilt."""


def _spoil_values(record: ArrayRecord, fate: Fate, layout: ParameterLayout) -> None:
    vector = layout.vector_from_arrays(record)
    places, values = _spoilt_values(fate, vector, layout)
    vector[places] = values
    arrays = layout.to_arrays(vector)
    for name in layout.names[: layout.num_trainable_tensors]:
        record[name] = arrays[name]


_CONTENT_CHANGES: dict[str, Callable[[ArrayRecord, Fate, ParameterLayout], None]] = {
    "shape": _reshape,
    "missing": _remove,
    "examples": _keep,
}


def _spoilt_values(fate: Fate, model: Tensor, layout: ParameterLayout) -> tuple[Tensor, Tensor]:
    """Return the entries of a (D,) model that are spoilt, each once, and their new values."""
    indices = [int(place * layout.num_trainable) for place in fate.places]
    first = dict(zip(indices, fate.bits, strict=True))
    places = torch.tensor(sorted(first))
    if fate.corruption == "bits":
        masks = torch.tensor([_mask(first[int(index)]) for index in places], dtype=torch.int32)
        return places, (model[places].view(torch.int32) ^ masks).view(torch.float32)
    number = math.nan if fate.corruption == "nan" else math.inf
    return places[:1], torch.full((1,), number)


def _mask(bit: int) -> int:
    """Return the int32 with one bit set."""
    return -(1 << 31) if bit == 31 else 1 << bit
