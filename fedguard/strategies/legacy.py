"""`LegacyStrategy`: any fedguard rule on a server with `flwr.server.strategy.Strategy`."""

from __future__ import annotations

from logging import WARNING
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.common import (
    FitIns,
    FitRes,
    Parameters,
    Scalar,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.logger import log
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg

from fedguard.layout import ParameterLayout
from fedguard.strategies.base import RobustStrategy
from fedguard.updates import ClientUpdates, Verdict

ALL_SAME = (
    "every client's update is the same, as Flower's secure aggregation hands them on: no rule can "
    "tell a liar where all look alike, and nothing is defended"
)

FitResult = tuple[ClientProxy, FitRes]


class LegacyStrategy(FedAvg):
    """Flower's older FedAvg with its averaging replaced by a fedguard rule.

    For ServerApps built with ``server_fn`` and clients that are `NumPyClient`. Sampling,
    evaluation and every other choice stay those of Flower's FedAvg.

    Parameters
    ----------
    rule : RobustStrategy
        The rule. One that needs a model must have its `layout` set to that of the model, whose
        state dict the clients send in order.
    **fedavg : Any
        Arguments of `flwr.server.strategy.FedAvg`, such as ``fraction_fit``.
    """

    def __init__(self, rule: RobustStrategy, **fedavg: Any) -> None:
        super().__init__(**fedavg)
        self.rule = rule
        self.last_verdict: Verdict | None = None
        self._global: list[np.ndarray] = []
        self._ids: dict[str, int] = {}
        self._warned = False

    def __repr__(self) -> str:
        """Return the name of the adapter and of its rule."""
        return f"LegacyStrategy({type(self.rule).__name__})"

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Remember the model that is sent out; sample clients as FedAvg does."""
        self._global = parameters_to_ndarrays(parameters)
        chosen: list[tuple[ClientProxy, FitIns]] = super().configure_fit(
            server_round, parameters, client_manager
        )
        return chosen

    def aggregate_fit(
        self,
        server_round: int,
        results: list[FitResult],
        failures: list[FitResult | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Set malformed results aside and let the rule decide about the others."""
        if not self._global:
            raise RuntimeError("aggregate_fit was called before configure_fit")
        if failures and not self.accept_failures:
            return None, {}
        updates = self._updates(server_round, results, failures)
        self.rule.current_round = server_round
        if updates.all_same and not self._warned:
            self._warned = True
            log(WARNING, "fedguard: %s", ALL_SAME)
        verdict = self.rule.decide(updates)
        self.last_verdict = verdict
        for observer in self.rule.observers:
            observer(server_round, updates, verdict)
        arrays = updates.layout.to_arrays(updates.global_vector + verdict.delta)
        model = ndarrays_to_parameters([array.numpy() for array in arrays.values()])
        return model, {
            "accepted": int((verdict.weights > 0).sum()),
            "rejected": len(verdict.reasons) + len(updates.malformed),
        }

    def _updates(
        self,
        server_round: int,
        results: list[FitResult],
        failures: list[FitResult | BaseException],
    ) -> ClientUpdates:
        """Stack the results' models, in the order of the clients' ids."""
        layout = self._layout()
        start = layout.flatten(self._named(layout, self._global))
        rows: dict[int, torch.Tensor] = {}
        claims: dict[int, float] = {}
        malformed = {self._id(f[0]): "the client failed" for f in failures if isinstance(f, tuple)}
        for proxy, result in results:
            node = self._id(proxy)
            try:
                model = self._named(layout, parameters_to_ndarrays(result.parameters))
                rows[node] = layout.flatten(model) - start
                claims[node] = float(result.num_examples)
            except Exception as error:  # bytes from outside can fail in any way
                rows.pop(node, None)
                malformed[node] = " ".join(str(error).split())[:200] or type(error).__name__
        nodes = sorted(rows)
        return ClientUpdates.from_matrix(
            torch.stack([rows[node] for node in nodes]) if nodes else torch.empty(0, layout.size),
            [claims[node] for node in nodes],
            nodes,
            start,
            layout,
            malformed=malformed,
            server_round=server_round,
        )

    def _layout(self) -> ParameterLayout:
        if self.rule.layout is None:
            self.rule.layout = ParameterLayout.from_arrays(ArrayRecord(list(self._global)))
        return self.rule.layout

    @staticmethod
    def _named(layout: ParameterLayout, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        if len(arrays) != len(layout.record_names):
            raise ValueError(f"{len(arrays)} arrays, expected {len(layout.record_names)}")
        for array in arrays:
            if array.dtype.kind not in "fiu":
                raise ValueError(f"an array holds {array.dtype}, expected numbers")
        return dict(zip(layout.record_names, arrays, strict=True))

    def _id(self, proxy: ClientProxy) -> int:
        """Return a client's number: its id where that is one, else the order of first sight."""
        if proxy.cid.isdecimal():
            return int(proxy.cid)
        return self._ids.setdefault(proxy.cid, len(self._ids))
