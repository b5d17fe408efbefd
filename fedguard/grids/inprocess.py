"""`InProcessGrid`: clients train in this process, their deltas go straight into one matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from flwr.app import Error, Message, MessageType, RecordDict
from torch import Tensor

from fedguard.clients.desk import Desk
from fedguard.clients.executors import Cohort, Executor, ReuseExecutor, Trained
from fedguard.clients.training import ClientTrainer
from fedguard.clients.watch import ClientError
from fedguard.grids.base import LocalGrid
from fedguard.grids.history import History
from fedguard.grids.messages import (
    EXAMPLES_KEY,
    METRICS_KEY,
    LazyReply,
    arrays_of,
    model_reply_content,
    server_round_of,
    told_metrics,
    training_configs,
)
from fedguard.grids.update_room import Room
from fedguard.layout import ParameterLayout
from fedguard.update_store import StoredRows
from fedguard.updates import StackedReplies

_UNSUPPORTED = 1
_FAILED = 2


class InProcessGrid(LocalGrid):
    """Answer for the clients of a federation; an executor trains them, here or on Ray.

    A training call:

    1. read the global vector once (all instructions of a call carry the same model);
    2. let the executor train the clients, each into its row of one matrix;
    3. answer with ordinary Flower messages whose content is built only where it is read, and for
       a client that failed, or that outlasted the call's timeout, with an error.

    Parameters
    ----------
    trainer : ClientTrainer
        Trains any client.
    attacking : callable
        Whether malicious clients attack in a given server round.
    executor : Executor, optional
        Trains the clients; one after another, on one reused model, if left out.
    history : History, optional
        Models of the last rounds; one of its own if left out.
    room : Room, optional
        Where updates lie that do not stay in memory; all do if left out.
    """

    def __init__(
        self,
        trainer: ClientTrainer,
        attacking: Callable[[int], bool] = lambda _: True,
        executor: Executor | None = None,
        history: History | None = None,
        room: Room | None = None,
    ) -> None:
        super().__init__()
        self.trainer = trainer
        self.executor = executor or ReuseExecutor(trainer)
        self.attacking = attacking
        self.history = history or History()
        self.room = room
        self._calls = 0
        self._desk = Desk(trainer)

    def get_node_ids(self) -> Iterable[int]:
        """Return the client ids, 0 to K - 1."""
        return range(self.trainer.federation.num_clients)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Answer training and evaluation instructions; each client has `timeout` for itself."""
        instructions = list(messages)
        training = [m for m in instructions if m.metadata.message_type == MessageType.TRAIN]
        if training and len(training) == len(instructions):
            return self._train(training, timeout)
        return [self._answer(message, timeout) for message in instructions]

    def _answer(self, message: Message, timeout: float | None) -> Message:
        if message.metadata.message_type == MessageType.TRAIN:
            return self._train([message], timeout)[0]
        if message.metadata.message_type == MessageType.EVALUATE:
            try:
                return self._desk.run(lambda trainer: self._evaluate(trainer, message), timeout)
            except ClientError as failure:
                return Message(Error(_FAILED, str(failure)), reply_to=message)
        kind = message.metadata.message_type
        return Message(Error(_UNSUPPORTED, f"no client answers {kind!r}"), reply_to=message)

    def _global_vector(self, message: Message) -> Tensor:
        vector = self.trainer.layout.vector_from_arrays(arrays_of(message))
        return vector.to(self.trainer.federation.device)

    def _train(self, messages: Sequence[Message], timeout: float | None) -> StackedReplies:
        self._calls += 1
        server_round = server_round_of(messages[0], self._calls)
        global_vector = self._global_vector(messages[0])
        self.history.note(server_round, global_vector)
        configs = training_configs(messages)
        self.trainer.report_unread(configs)
        cohort = Cohort(
            clients=tuple(message.metadata.dst_node_id for message in messages),
            server_round=server_round,
            global_vector=global_vector,
            attacking=self.attacking(server_round),
            last_update=self.history.last_update(server_round, global_vector),
            configs=configs if any(configs) else (),
            timeout=timeout,
        )
        deltas, trained = self._trained(cohort)
        return stacked_replies(
            messages,
            deltas,
            trained.examples,
            trained.losses,
            global_vector.cpu(),
            self.trainer.layout,
            trained.failed,
        )

    def _trained(self, cohort: Cohort) -> tuple[Tensor | StoredRows, Trained]:
        """Return the cohort's deltas, wherever they lie, and what else it reports."""
        count, size = len(cohort.clients), self.trainer.layout.size
        if self.room is not None and not self.room.holds(count, size):
            return self.room.train(cohort, size, self.executor.train)
        deltas = torch.empty(count, size, device=cohort.global_vector.device)
        trained = self.executor.train(cohort, deltas)
        return deltas.cpu(), trained

    def _evaluate(self, trainer: ClientTrainer, message: Message) -> Message:
        x, y = trainer.examples(message.metadata.dst_node_id)
        trainer.load_for(message.metadata.dst_node_id, self._global_vector(message))
        found = trainer.federation.task.evaluate(trainer.model.module, x, y)
        metrics = told_metrics(found, len(y))
        return Message(RecordDict({METRICS_KEY: metrics}), reply_to=message)


def stacked_replies(
    messages: Sequence[Message],
    deltas: Tensor | StoredRows,
    examples: Tensor,
    losses: Sequence[float],
    global_vector: Tensor,
    layout: ParameterLayout,
    failed: Mapping[int, str] | None = None,
) -> StackedReplies:
    """Return replies to `messages` that read their models from the rows of `deltas`.

    A row that is rewritten before a reply's content is read shows in the reply. The rows that
    `failed` names are answered with an error and its reason.
    """
    lost = failed or {}

    def content_of(row: int) -> Callable[[], RecordDict]:
        metrics: dict[str, int | float] = {
            EXAMPLES_KEY: int(examples[row]),
            "train-loss": losses[row],
        }
        return lambda: model_reply_content(layout, global_vector + deltas[row], metrics)

    replies = [
        Message(Error(_FAILED, lost[row]), reply_to=message)
        if row in lost
        else LazyReply(message, content_of(row))
        for row, message in enumerate(messages)
    ]
    return StackedReplies(replies, deltas, examples, layout)
