"""`FromLegacy`: a strategy of Flower's older API, `flwr.server.strategy`, as one of today's."""

from __future__ import annotations

from collections.abc import Iterable
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
from flwr.common import (
    Code,
    EvaluateRes,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy as OlderStrategy
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

_OK = Status(Code.OK, "")


class _Node(ClientProxy):
    """A node as the older API sees it; it is reached through messages, never called."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("a strategy may sample clients and read their results, not call them")

    get_properties = get_parameters = fit = evaluate = reconnect = _refuse


class FromLegacy(Strategy):
    """A strategy of Flower's older API in today's servers, and in fedguard's simulation.

    Arrays travel under the names of the global model; the older strategy sees them as a list in
    that order. Its `initialize_parameters` and `evaluate` are not called: the run has a model and
    evaluates it.

    Parameters
    ----------
    inner : flwr.server.strategy.Strategy
        The older strategy; what it keeps between rounds is its own.
    arrays_key, metrics_key, config_key, weighted_by_key : str
        Names of the records in messages, and of the number of examples.
    """

    def __init__(
        self,
        inner: OlderStrategy,
        *,
        arrays_key: str = "arrays",
        metrics_key: str = "metrics",
        config_key: str = "config",
        weighted_by_key: str = "num-examples",
    ) -> None:
        self.inner = inner
        self.arrays_key, self.metrics_key = arrays_key, metrics_key
        self.config_key, self.weighted_by_key = config_key, weighted_by_key
        self._names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the name of the adapter and of the strategy in it."""
        return f"FromLegacy({type(self.inner).__name__})"

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the older strategy choose clients and what each of them receives."""
        self._names = tuple(arrays)
        chosen = self.inner.configure_fit(server_round, _parameters(arrays), _manager(grid))
        return self._messages(chosen, server_round, config, MessageType.TRAIN)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the older strategy choose clients that evaluate."""
        self._names = tuple(arrays)
        chosen = self.inner.configure_evaluate(server_round, _parameters(arrays), _manager(grid))
        return self._messages(chosen, server_round, config, MessageType.EVALUATE)

    def _messages(
        self, chosen: Iterable[tuple[ClientProxy, Any]], server_round: int, config: Any, kind: str
    ) -> list[Message]:
        messages = []
        for proxy, instruction in chosen or []:
            own = {**config, **instruction.config, "server-round": server_round}
            content = RecordDict(
                {
                    self.arrays_key: self._arrays(instruction.parameters),
                    self.config_key: ConfigRecord(own),
                }
            )
            messages.append(Message(content, dst_node_id=int(proxy.cid), message_type=kind))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the older strategy aggregate; replies that are no result count as failures."""
        results: list[tuple[ClientProxy, FitRes]] = []
        failures: list[tuple[ClientProxy, FitRes] | BaseException] = []
        for reply in replies:
            try:
                results.append((_Node(str(reply.metadata.src_node_id)), self._fit(reply)))
            except Exception as error:  # bytes from outside can fail in any way
                failures.append(error)
        parameters, metrics = self.inner.aggregate_fit(server_round, results, failures)
        arrays = None if parameters is None else self._arrays(parameters)
        return arrays, _metric_record(metrics)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the older strategy aggregate what clients evaluated."""
        results: list[tuple[ClientProxy, EvaluateRes]] = []
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException] = []
        for reply in replies:
            try:
                results.append((_Node(str(reply.metadata.src_node_id)), self._evaluation(reply)))
            except Exception as error:
                failures.append(error)
        loss, metrics = self.inner.aggregate_evaluate(server_round, results, failures)
        told = dict(metrics or {})
        if loss is not None:
            told["loss"] = float(loss)
        return _metric_record(told)

    def summary(self) -> None:
        """Say nothing: older strategies have no summary."""

    def _fit(self, reply: Message) -> FitRes:
        content = self._content(reply)
        record = next(iter(content.array_records.values()))
        names = self._names if set(self._names) == set(record) else tuple(record)
        arrays = [record[name].numpy() for name in names]
        metrics = self._metrics(content)
        examples = int(metrics.pop(self.weighted_by_key))
        return FitRes(_OK, ndarrays_to_parameters(arrays), examples, metrics)

    def _evaluation(self, reply: Message) -> EvaluateRes:
        metrics = self._metrics(self._content(reply))
        examples = int(metrics.pop(self.weighted_by_key))
        loss = next(metrics[key] for key in ("loss", "eval-loss", "eval_loss") if key in metrics)
        return EvaluateRes(_OK, float(loss), examples, metrics)

    def _content(self, reply: Message) -> RecordDict:
        if reply.has_error():
            raise RuntimeError(str(reply.error.reason))
        return reply.content

    def _metrics(self, content: RecordDict) -> dict[str, Any]:
        """Return a reply's metrics, ``train-loss`` also as ``train_loss``."""
        record = next(iter(content.metric_records.values()))
        plain = {k: v for k, v in record.items() if isinstance(v, int | float)}
        return {**{name.replace("-", "_"): value for name, value in plain.items()}, **plain}

    def _arrays(self, parameters: Parameters) -> ArrayRecord:
        arrays = parameters_to_ndarrays(parameters)
        if len(arrays) != len(self._names):
            raise ValueError(f"{len(arrays)} arrays, expected {len(self._names)}")
        return ArrayRecord(
            {name: Array(np.asarray(a)) for name, a in zip(self._names, arrays, strict=True)}
        )


def _parameters(arrays: ArrayRecord) -> Parameters:
    return ndarrays_to_parameters([array.numpy() for array in arrays.values()])


def _manager(grid: Grid) -> SimpleClientManager:
    """Return a client manager that knows the grid's nodes."""
    manager = SimpleClientManager()
    for node in sorted(grid.get_node_ids()):
        manager.register(_Node(str(node)))
    return manager


def _metric_record(metrics: Any) -> MetricRecord | None:
    told: dict[str, Any] = {
        name: value
        for name, value in dict(metrics or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return MetricRecord(told) if told else None
