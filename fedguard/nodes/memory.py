"""What clients' training rules remember, fetched from simulated nodes and handed back to them.

A node keeps what its client remembers in its own context, which ends with Flower's simulation.
A run that is to go on after a crash therefore fetches it after each round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedguard.errors import RunError

MEMORY = "training-memory"
"""Where a node keeps what the training rule remembers of its client."""

FETCH = "query.memory"
"""Type of the message by which the server asks for memories, or hands them back."""

Memory = dict[str, Tensor]


def memory_record(memory: Mapping[str, Tensor]) -> ArrayRecord:
    """Return a client's memory as an array record."""
    return ArrayRecord({name: Array(value.cpu().numpy()) for name, value in memory.items()})


def memory_of(record: ArrayRecord) -> Memory:
    """Return a client's memory from an array record."""
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}


def as_state(memories: Mapping[int, Memory]) -> Memory:
    """Return clients' memories as one checkpoint holds them: ``CLIENT/NAME``."""
    return {
        f"{c}/{name}": value for c, memory in memories.items() for name, value in memory.items()
    }


def of_state(state: Mapping[str, Tensor]) -> dict[int, Memory]:
    """Return clients' memories from what `as_state` returned."""
    found: dict[int, Memory] = {}
    for name, value in state.items():
        client, _, own = name.partition("/")
        found.setdefault(int(client), {})[own] = value
    return found


def answer_memory(message: Message, context: Context) -> Message:
    """Take the memory that a message hands back, if it does; reply with what the node keeps."""
    given = message.content.array_records.get(MEMORY)
    if given is not None:
        context.state[MEMORY] = given
    kept = context.state.array_records.get(MEMORY)
    return Message(RecordDict({} if kept is None else {MEMORY: kept}), reply_to=message)


class NodeMemories:
    """The memories of all nodes of a grid.

    Parameters
    ----------
    grid : Grid
        Reaches fedguard's own ClientApp; its node ids are client ids.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def fetch(self, clients: Iterable[int]) -> dict[int, Memory]:
        """Return what clients keep, of those that keep something and answer."""
        return self._exchange({client: RecordDict() for client in clients})

    def hand_back(self, memories: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Give clients the memories of an earlier execution.

        Raises
        ------
        RunError
            If a client does not take its memory: it would go on as if it had never trained.
        """
        if not memories:
            return
        list(self.grid.get_node_ids())  # a grid seats its nodes when it is asked for them
        taken = self._exchange(
            {c: RecordDict({MEMORY: memory_record(memory)}) for c, memory in memories.items()}
        )
        lost = sorted(memories.keys() - taken.keys())
        if lost:
            raise RunError(f"clients {lost} did not take back what their training rule remembered")

    def _exchange(self, contents: Mapping[int, RecordDict]) -> dict[int, Memory]:
        messages = [
            Message(content, dst_node_id=client, message_type=FETCH)
            for client, content in contents.items()
        ]
        found: dict[int, Memory] = {}
        for reply in self.grid.send_and_receive(messages) if messages else ():
            if not reply.has_error() and MEMORY in reply.content.array_records:
                record = reply.content.array_records[MEMORY]
                found[reply.metadata.src_node_id] = memory_of(record)
        return found
