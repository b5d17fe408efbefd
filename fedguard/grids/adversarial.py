"""`AdversarialGrid`: the coalition of malicious clients rewrites its replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge, KnowledgeScope
from fedguard.grids.base import WrappedGrid
from fedguard.grids.history import History
from fedguard.grids.messages import arrays_of, server_round_of
from fedguard.layout import ParameterLayout
from fedguard.randomness import SERVER, generator
from fedguard.updates import ClientUpdates, StackedReplies, Verdict


class AdversarialGrid(WrappedGrid):
    """A grid around any other, whose malicious clients send what their attack crafts.

    A training call:

    1. let the inner grid's clients train, malicious ones too, honestly or on poisoned data;
    2. gather the coalition's updates, and what else the attacker is allowed to see;
    3. let the attack craft the coalition's new updates;
    4. put them in place of the old ones and hand all replies on.

    Parameters
    ----------
    inner : Grid
        Where clients run.
    attack : Attack
        The attack; one that does not need ``"updates"`` changes nothing here.
    malicious : collection of int
        Node ids of the coalition.
    seed : int
        Seed of the coalition's random stream.
    scope : str
        ``"partial"``: the attacker sees its own clients' updates; ``"full"``: all of the round.
    attacking : callable
        Whether the coalition attacks in a given server round.
    defence : str
        Name of the strategy it faces.
    aggregate : callable, optional
        Copy of the deployed rule, for attacks that search against it.
    history : History, optional
        Models of the last rounds; one of its own if left out.
    prepare : callable, optional
        Shows an attack that reads the global model the round's (D,) model before it crafts.
    verdicts : callable, optional
        What that copy decides in several rounds in a row; see `Knowledge`.
    joined : callable
        Whether the coalition has joined the federation by a given server round; instructions to
        clients that have not are lost.
    """

    def __init__(
        self,
        inner: Grid,
        attack: Attack,
        malicious: Iterable[int],
        seed: int,
        *,
        scope: KnowledgeScope = "partial",
        attacking: Callable[[int], bool] = lambda _: True,
        defence: str = "",
        aggregate: Callable[[ClientUpdates], Tensor] | None = None,
        history: History | None = None,
        prepare: Callable[[int, Tensor], None] = lambda _round, _model: None,
        verdicts: Callable[[Sequence[ClientUpdates]], list[Verdict]] | None = None,
        joined: Callable[[int], bool] = lambda _: True,
    ) -> None:
        super().__init__(inner)
        self.attack = attack
        self.malicious = frozenset(malicious)
        self.seed = seed
        self.scope: KnowledgeScope = scope
        self.attacking = attacking
        self.defence = defence
        self.aggregate = aggregate
        self.history = history or History()
        self.prepare = prepare
        self.verdicts = verdicts
        self.joined = joined
        self._calls = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages; replies of the coalition to training instructions are rewritten."""
        instructions = self._delivered(list(messages))
        replies = self.inner.send_and_receive(instructions, timeout=timeout)
        training = [m for m in instructions if m.metadata.message_type == MessageType.TRAIN]
        if not training or "updates" not in self.attack.needs:
            return replies
        self._calls += 1
        server_round = server_round_of(training[0], self._calls)
        if not self.attacking(server_round):
            return replies
        return self._rewrite(replies, training, server_round)

    def _delivered(self, instructions: list[Message]) -> list[Message]:
        """Return the messages without those to members of the coalition that are not there yet."""
        training = [m for m in instructions if m.metadata.message_type == MessageType.TRAIN]
        if not training or self.joined(server_round_of(training[0], self._calls + 1)):
            return instructions
        return [m for m in instructions if m.metadata.dst_node_id not in self.malicious]

    def _rewrite(
        self, replies: Iterable[Message], training: Sequence[Message], server_round: int
    ) -> Iterable[Message]:
        batch = replies if isinstance(replies, StackedReplies) else list(replies)
        arrays = arrays_of(training[0])
        layout = (
            batch.layout
            if isinstance(batch, StackedReplies)
            else ParameterLayout.from_arrays(arrays)
        )
        global_vector = layout.vector_from_arrays(arrays)
        self.history.note(server_round, global_vector)
        updates = ClientUpdates.from_replies(
            batch, global_vector, layout, server_round=server_round
        )
        mine = [row for row, node in enumerate(updates.node_ids) if node in self.malicious]
        if not mine:
            return batch
        coalition = updates.select(mine)
        knowledge = Knowledge(
            scope=self.scope,
            updates=updates if self.scope == "full" else coalition,
            cohort_size=len(training),
            num_malicious=len(mine),
            server_round=server_round,
            generator=generator(self.seed, server_round, SERVER, "attack"),
            defence=self.defence,
            aggregate=self.aggregate,
            last_update=self.history.last_update(server_round, global_vector),
            verdicts=self.verdicts,
        )
        if "model" in self.attack.needs:
            self.prepare(server_round, global_vector)
        with torch.no_grad():
            crafted = self.attack.craft(coalition, knowledge)
        _put_in_place(batch, coalition, crafted)
        return batch


def _put_in_place(
    batch: StackedReplies | list[Message], coalition: ClientUpdates, crafted: Tensor
) -> None:
    """Replace the coalition's models in the replies by global model plus crafted deltas."""
    rows = {node: row for row, node in enumerate(coalition.node_ids)}
    for position, message in enumerate(batch):
        row = rows.get(message.metadata.src_node_id)
        if row is None:
            continue
        if isinstance(batch, StackedReplies):
            batch.deltas[position] = crafted[row]
            continue
        arrays = coalition.layout.to_arrays(coalition.global_vector + crafted[row])
        record = next(iter(message.content.array_records.values()))
        # A plain list of arrays keeps its own names, 0 to n - 1.
        listed = coalition.layout.named(record) is not record
        for place, name in enumerate(coalition.layout.record_names):
            record[str(place) if listed else name] = arrays[name]
