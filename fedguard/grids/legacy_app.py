"""Clients of Flower's older API, ``client_fn`` and `NumPyClient`, as a ClientApp of today."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.client import Client, NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import Code, EvaluateIns, FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat as compat

from fedguard.grids.messages import ARRAYS_KEY, CONFIG_KEY, EXAMPLES_KEY, METRICS_KEY, arrays_of

ClientFn = Callable[[Context], Client]


def legacy_app(found: Any) -> ClientApp | None:
    """Return an app of what a path names, where that is of the older API; else None.

    Parameters
    ----------
    found : Any
        A ``client_fn``, a `NumPyClient` or `Client` class that needs no arguments or takes the
        context, an instance of one, or a `ClientApp` made with a ``client_fn``.
    """
    if isinstance(found, ClientApp):
        return LegacyApp(found) if getattr(found, "_call", None) is not None else None
    if isinstance(found, NumPyClient | Client):
        return LegacyApp(ClientApp(client_fn=_always(found)))
    if inspect.isclass(found) and issubclass(found, NumPyClient | Client):
        return LegacyApp(ClientApp(client_fn=_made(found)))
    if inspect.isfunction(found) and len(inspect.signature(found).parameters) == 1:
        return LegacyApp(ClientApp(client_fn=_client_of(found)))
    return None


def _as_client(made: Any) -> Client:
    return made.to_client() if isinstance(made, NumPyClient) else made


def _always(client: Any) -> ClientFn:
    def client_fn(context: Context) -> Client:
        return _as_client(client)

    return client_fn


def _made(kind: Callable[..., Any]) -> ClientFn:
    wants = bool(inspect.signature(kind).parameters)

    def client_fn(context: Context) -> Client:
        return _as_client(kind(context) if wants else kind())

    return client_fn


def _client_of(function: Callable[..., Any]) -> ClientFn:
    """Return a ``client_fn`` of the form that takes a context; an older one takes a ``cid``."""
    name, parameter = next(iter(inspect.signature(function).parameters.items()))
    older = name == "cid" or parameter.annotation in (str, "str")

    def client_fn(context: Context) -> Client:
        cid = str(context.node_config.get("partition-id", context.node_id))
        return _as_client(function(cid if older else context))

    return client_fn


class LegacyApp(ClientApp):
    """A ClientApp around one of the older API: today's messages in, today's replies out.

    1. The arrays of a message become a list in their order, its config a plain mapping, in which
       ``local-epochs`` is also ``local_epochs``.
    2. The older app answers `fit` or `evaluate`.
    3. Its list becomes arrays under the names that were sent, its number of examples and its
       numeric metrics the reply's metrics.

    Parameters
    ----------
    inner : ClientApp
        Made with a ``client_fn``.
    """

    def __init__(self, inner: ClientApp) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message as a ClientApp does."""
        kind = message.metadata.message_type
        if kind not in (MessageType.TRAIN, MessageType.EVALUATE):
            raise ValueError(f"a client of Flower's older API answers no {kind!r}")
        arrays = arrays_of(message)
        parameters = ndarrays_to_parameters([array.numpy() for array in arrays.values()])
        config = _spelt_both_ways(message.content.config_records.get(CONFIG_KEY, {}))
        question = copy.copy(message)
        if kind == MessageType.TRAIN:
            fit = FitIns(parameters, config)
            question.content = compat.fitins_to_recorddict(fit, keep_input=True)
            content = _trained(self.inner(question, context), list(arrays))
        else:
            evaluate = EvaluateIns(parameters, config)
            question.content = compat.evaluateins_to_recorddict(evaluate, keep_input=True)
            content = _evaluated(self.inner(question, context))
        return Message(content, reply_to=message)


def _spelt_both_ways(config: Mapping[str, Any] | ConfigRecord) -> dict[str, Any]:
    """Return a message's configuration, ``local-epochs`` also as ``local_epochs``."""
    found = dict(config)
    for key, value in config.items():
        found.setdefault(key.replace("-", "_"), value)
    return found


def _numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _trained(reply: Message, names: list[str]) -> RecordDict:
    result = compat.recorddict_to_fitres(_content(reply), keep_input=False)
    _check(result.status)
    arrays = parameters_to_ndarrays(result.parameters)
    if len(arrays) != len(names):
        raise ValueError(f"fit returned {len(arrays)} arrays, expected {len(names)}")
    record = ArrayRecord({name: Array(array) for name, array in zip(names, arrays, strict=True)})
    metrics = {EXAMPLES_KEY: result.num_examples, **_numbers(result.metrics)}
    return RecordDict({ARRAYS_KEY: record, METRICS_KEY: MetricRecord(metrics)})


def _evaluated(reply: Message) -> RecordDict:
    result = compat.recorddict_to_evaluateres(_content(reply))
    _check(result.status)
    figures = {EXAMPLES_KEY: result.num_examples, "loss": float(result.loss)}
    return RecordDict({METRICS_KEY: MetricRecord({**figures, **_numbers(result.metrics)})})


def _content(reply: Message) -> RecordDict:
    if reply.has_error():
        raise RuntimeError(str(reply.error.reason))
    return reply.content


def _check(status: Any) -> None:
    if status.code != Code.OK:
        raise RuntimeError(f"{status.code.name}: {status.message}")
