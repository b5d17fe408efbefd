"""Messages inside one process: built from matrix rows only where somebody reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

if TYPE_CHECKING:  # a node that only says who it is, or hands its memory over, needs no torch
    from torch import Tensor

    from fedguard.layout import ParameterLayout

ARRAYS_KEY = "arrays"
METRICS_KEY = "metrics"
CONFIG_KEY = "config"
ROUND_KEY = "server-round"
EXAMPLES_KEY = "num-examples"


class LazyReply(Message):
    """An ordinary Flower reply whose content is built when it is first read.

    Parameters
    ----------
    reply_to : Message
        The instruction that it answers.
    build : callable
        Returns the content.
    """

    def __init__(self, reply_to: Message, build: Callable[[], RecordDict]) -> None:
        super().__init__(RecordDict(), reply_to=reply_to)
        self.__dict__["_build"] = build

    @property
    def content(self) -> RecordDict:
        """The reply's content."""
        build = self.__dict__.pop("_build", None)
        if build is not None:
            self.__dict__["_content"] = build()
        found: RecordDict = self.__dict__["_content"]
        return found

    @content.setter
    def content(self, value: RecordDict) -> None:
        self.__dict__.pop("_build", None)
        self.__dict__["_content"] = value


def model_reply_content(
    layout: ParameterLayout, model: Tensor, metrics: Mapping[str, int | float]
) -> RecordDict:
    """Return the content of a training reply: a (D,) model and its metrics."""
    record: ArrayRecord = layout.to_arrays(model)
    return RecordDict({ARRAYS_KEY: record, METRICS_KEY: MetricRecord(dict(metrics))})


def told_metrics(found: Mapping[str, Any], examples: int) -> MetricRecord:
    """Return a task's figures as a client reports them: the plain numbers, and its examples."""
    plain = {name: value for name, value in found.items() if isinstance(value, int | float)}
    return MetricRecord({EXAMPLES_KEY: examples, **plain})


def server_round_of(message: Message, default: int) -> int:
    """Return the server round that a message names in any of its config records."""
    for record in message.content.config_records.values():
        value = record.get(ROUND_KEY)
        if isinstance(value, int):
            return value
    return default


def training_config(message: Message) -> dict[str, Any]:
    """Return what a message's ``config`` record says about training, the round's number aside.

    Records under other names belong to protocols of their own.
    """
    record = message.content.get(CONFIG_KEY)
    if not isinstance(record, ConfigRecord):
        return {}
    return {key: value for key, value in record.items() if key != ROUND_KEY}


def training_configs(messages: Sequence[Message]) -> tuple[dict[str, Any], ...]:
    """Return `training_config` of each message; messages that share a content share the answer."""
    shared = [id(message.content) for message in messages]
    firsts = dict(zip(reversed(shared), reversed(messages), strict=True))
    found = {content: training_config(message) for content, message in firsts.items()}
    return tuple(found[content] for content in shared)


def arrays_of(message: Message) -> ArrayRecord:
    """Return the one array record that an instruction carries."""
    records = list(message.content.array_records.values())
    if len(records) != 1:
        raise ValueError(f"an instruction carries {len(records)} array records, expected 1")
    return records[0]
