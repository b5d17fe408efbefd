"""Servers of Flower's older API behind a rule: their strategy is wrapped, their app is copied."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from flwr.app import ArrayRecord, Context
from flwr.common import FitRes, Parameters, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg, Strategy
from flwr.serverapp import Grid, ServerApp

from fedguard.errors import ConfigurationError
from fedguard.grids.guarded import ONE_MODEL, fit_together
from fedguard.grids.judge import Judge, Judged
from fedguard.grids.reported import fitting
from fedguard.layout import ParameterLayout
from fedguard.strategies.base import RobustStrategy
from fedguard.updates import MAX_EXAMPLES, ClientUpdates

_CLAIM = "num_examples"

FitResult = tuple[ClientProxy, FitRes]


def is_older_app(app: ServerApp) -> bool:
    """Return whether a ServerApp has no main function: Flower's older server runs it."""
    return getattr(app, "_main", None) is None


def run_older(app: ServerApp, rule: RobustStrategy, grid: Grid, context: Context) -> None:
    """Run a ServerApp of the older API whose strategy gets what a rule has decided on."""
    own: Any = copy.copy(app)
    make: Callable[[Context], Any] | None = getattr(app, "_server_fn", None)
    if make is None:
        own._strategy = GuardedStrategy(getattr(app, "_strategy", None) or FedAvg(), rule)
    else:

        def server_fn(context: Context) -> Any:
            components = make(context)
            if components.server is not None:
                inner = components.server.strategy
                components.server.set_strategy(GuardedStrategy(inner, rule))
            else:
                components.strategy = GuardedStrategy(components.strategy or FedAvg(), rule)
            return components

        own._server_fn = server_fn
    if getattr(app, "_server", None) is not None:
        server: Any = app.__dict__["_server"]
        server.set_strategy(GuardedStrategy(server.strategy, rule))
    own(grid, context)


class GuardedStrategy(Strategy):
    """A strategy of the older API whose results a rule has decided on; see `Guarded`.

    Failures are kept back: what a client's failure means is the rule's to say.

    Parameters
    ----------
    inner : flwr.server.strategy.Strategy
        The strategy; whatever else it offers is offered here.
    rule : RobustStrategy
        The rule.
    """

    def __init__(self, inner: Strategy, rule: RobustStrategy) -> None:
        self.inner = inner
        self.judge = Judge(rule)
        self.rounds: list[Judged] = []
        self._sent: Parameters | None = None
        self._asked: tuple[str, ...] = ()
        self._numbers: dict[str, int] = {}

    def __repr__(self) -> str:
        """Return the names of strategy and rule."""
        return f"GuardedStrategy({self.inner!r}, {self.judge.name})"

    def __getattr__(self, name: str) -> Any:
        """Return what the inner strategy has."""
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def initialize_parameters(self, client_manager: Any) -> Parameters | None:
        """Let the inner strategy begin."""
        return self.inner.initialize_parameters(client_manager)

    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: Any) -> Any:
        """Let the inner strategy choose; remember what it sends to whom.

        Raises
        ------
        ConfigurationError
            If it sends each client a model of its own.
        """
        chosen = self.inner.configure_fit(server_round, parameters, client_manager) or []
        self._asked = tuple(proxy.cid for proxy, _ in chosen)
        self._sent = chosen[0][1].parameters if chosen else parameters
        sent = {id(each.parameters): each.parameters for _, each in chosen}
        if any(each.tensors != self._sent.tensors for each in sent.values()):
            raise ConfigurationError("strategy", *ONE_MODEL)
        return chosen

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: Any
    ) -> Any:
        """Let the inner strategy choose."""
        return self.inner.configure_evaluate(server_round, parameters, client_manager)

    def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> Any:
        """Let the inner strategy aggregate what fits together of the clients' evaluations."""
        told = {
            self._id(proxy.cid): {"loss": result.loss, **result.metrics}
            for proxy, result in reversed(results)
        }
        figures, odd = fitting(told)
        kept = []
        for proxy, result in results:
            node = self._id(proxy.cid)
            if node in odd or not 1 <= result.num_examples <= MAX_EXAMPLES:
                reason = odd.get(node, f"an evaluation on {result.num_examples} examples")
                self.judge.warn(f"a client's evaluation is set aside: {reason}")
                continue
            result.loss = figures[node].get("loss", result.loss)
            result.metrics = {n: v for n, v in figures[node].items() if n in result.metrics}
            kept.append((proxy, result))
        return self.inner.aggregate_evaluate(server_round, kept, failures)

    def evaluate(self, server_round: int, parameters: Parameters) -> Any:
        """Let the inner strategy evaluate."""
        return self.inner.evaluate(server_round, parameters)

    def aggregate_fit(self, server_round: int, results: list[FitResult], failures: Any) -> Any:
        """Let the rule decide, and the inner strategy aggregate what it leaves."""
        if self._sent is None:
            raise RuntimeError("aggregate_fit was called before configure_fit")
        arrays = ArrayRecord(parameters_to_ndarrays(self._sent))
        layout = self.judge.settle(ParameterLayout.from_arrays(arrays))
        start = layout.vector_from_arrays(arrays)
        updates = self._updates(server_round, results, start, layout)
        metrics = {self._id(proxy.cid): dict(result.metrics) for proxy, result in results}
        updates, figures = fit_together(updates, metrics, _CLAIM)
        judged = self.judge.decide(updates, len(self._asked))
        self.rounds.append(judged)
        kept: dict[int, FitResult] = {}
        for proxy, result in results:
            node = self._id(proxy.cid)
            if node in judged.accepted and node not in kept:
                result.metrics = figures[node]
                if judged.delta is not None:
                    model = layout.to_arrays(start + judged.delta)
                    result.parameters = ndarrays_to_parameters([a.numpy() for a in model.values()])
                kept[node] = (proxy, result)
        return self.inner.aggregate_fit(server_round, list(kept.values()), [])

    def _updates(
        self, number: int, results: list[FitResult], start: torch.Tensor, layout: ParameterLayout
    ) -> ClientUpdates:
        """Stack the results' models; what cannot be read is set aside."""
        rows: dict[int, torch.Tensor] = {}
        claims: dict[int, float] = {}
        malformed: dict[int, str] = {}
        for proxy, result in results:
            node = self._id(proxy.cid)
            if node in rows or node in malformed:
                continue
            try:
                record = ArrayRecord(parameters_to_ndarrays(result.parameters))
                if len(record) != len(layout.names):
                    raise ValueError(f"{len(record)} arrays, expected {len(layout.names)}")
                if odd := [a.dtype for a in record.values() if a.numpy().dtype.kind not in "fiub"]:
                    raise ValueError(f"an array holds {odd[0]}, expected numbers")
                rows[node] = layout.vector_from_arrays(record) - start
                claims[node] = float(result.num_examples)
            except Exception as error:  # bytes from outside can fail in any way
                rows.pop(node, None)
                malformed[node] = " ".join(str(error).split())[:200] or type(error).__name__
        for cid in self._asked:
            if (node := self._id(cid)) not in rows:
                malformed.setdefault(node, "no usable reply")
        nodes = sorted(rows)
        return ClientUpdates.from_matrix(
            torch.stack([rows[node] for node in nodes]) if nodes else torch.empty(0, layout.size),
            [claims[node] for node in nodes],
            nodes,
            start,
            layout,
            malformed=malformed,
            server_round=number,
        )

    def _id(self, cid: str) -> int:
        """Return a client's number: its id where that is one, else the order of first sight."""
        return int(cid) if cid.isdecimal() else self._numbers.setdefault(cid, len(self._numbers))
