"""Our rules on a server with Flower's older strategies and NumPyClients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.client import NumPyClient
from flwr.common import Code, FitRes, Parameters, Status, ndarrays_to_parameters
from flwr.common import parameters_to_ndarrays as to_arrays
from flwr.server import SimpleClientManager
from flwr.server.client_proxy import ClientProxy

from fedguard.strategies import FedAvg, Krum, Median
from fedguard.strategies.legacy import LegacyStrategy
from fedguard.updates import ParameterLayout

START = [np.zeros((3, 2), np.float32), np.ones(2, np.float32), np.array(4)]


class Shifts(NumPyClient):
    """A client whose training adds a number to every weight."""

    def __init__(self, shift: float, examples: int = 10) -> None:
        self.shift = shift
        self.examples = examples

    def fit(self, parameters, config):
        changed = [array + self.shift for array in parameters[:2]]
        return [*changed, parameters[2] + 1], self.examples, {}


class Proxy(ClientProxy):
    """Hands instructions to a NumPyClient in this process, as Flower's own proxies do."""

    def __init__(self, cid: str, client: NumPyClient) -> None:
        super().__init__(cid)
        self.client = client

    def fit(self, ins, timeout, group_id):
        arrays, examples, metrics = self.client.fit(to_arrays(ins.parameters), ins.config)
        status = Status(Code.OK, "")
        return FitRes(status, ndarrays_to_parameters(arrays), examples, metrics)

    get_properties = get_parameters = evaluate = reconnect = None


Proxy.__abstractmethods__ = frozenset()


def one_round(strategy: LegacyStrategy, clients: dict[str, NumPyClient], spoil=None):
    manager = SimpleClientManager()
    for cid, client in clients.items():
        manager.register(Proxy(cid, client))
    asked = strategy.configure_fit(1, ndarrays_to_parameters(START), manager)
    results = [(proxy, proxy.fit(ins, None, None)) for proxy, ins in asked]
    if spoil is not None:
        for proxy, result in results:
            spoil(proxy.cid, result)
    parameters, metrics = strategy.aggregate_fit(1, results, [])
    return to_arrays(parameters), metrics


def legacy(rule, count: int) -> LegacyStrategy:
    return LegacyStrategy(rule, min_fit_clients=count, min_available_clients=count)


def test_averaging_weighs_by_examples_and_keeps_shapes_and_types():
    clients = {"0": Shifts(1.0, 10), "1": Shifts(4.0, 30)}
    arrays, metrics = one_round(legacy(FedAvg(), 2), clients)
    assert [a.shape for a in arrays] == [a.shape for a in START]
    assert [a.dtype for a in arrays] == [a.dtype for a in START]
    np.testing.assert_allclose(arrays[0], START[0] + 3.25)
    np.testing.assert_allclose(arrays[1], START[1] + 3.25)
    assert metrics == {"accepted": 2, "rejected": 0}


def test_a_robust_rule_names_the_client_it_rejects():
    clients = {f"c{at}": Shifts(1.0 + at / 100) for at in range(6)} | {"liar": Shifts(-1e6)}
    strategy = legacy(Krum(), 7)
    arrays, metrics = one_round(strategy, clients)
    assert 1.0 <= float(arrays[0][0, 0]) <= 1.05
    assert metrics["rejected"] >= 1
    liar = strategy._ids["liar"]
    assert "Krum score" in strategy.last_verdict.reasons[liar]


def test_updates_that_are_all_one_are_told_once(caplog):
    clients = {str(client): Shifts(1.0, 10) for client in range(3)}
    with caplog.at_level("WARNING", logger="flwr"):
        strategy = legacy(Krum(assumed_malicious=0.1), 3)
        one_round(strategy, clients)
        one_round(strategy, clients)
    assert caplog.text.count("nothing is defended") == 1
    caplog.clear()
    one_round(legacy(FedAvg(), 3), {**clients, "2": Shifts(2.0, 10)})
    assert "nothing is defended" not in caplog.text


def spoiled(cid: str, result: FitRes) -> None:
    if cid == "0":
        result.parameters = Parameters([b"no array"] * 3, "numpy.ndarray")
    if cid == "1":
        result.parameters = ndarrays_to_parameters([*START[:2]])
    if cid == "2":
        result.parameters = ndarrays_to_parameters([START[0] * np.nan, *START[1:]])
    if cid == "3":
        result.num_examples = -5


def test_malformed_results_are_set_aside():
    seen = []
    strategy = legacy(Median(), 7)
    strategy.rule.observers.append(lambda *args: seen.append(args))
    clients = {str(at): Shifts(2.0) for at in range(7)}
    arrays, metrics = one_round(strategy, clients, spoiled)
    np.testing.assert_allclose(arrays[0], START[0] + 2.0)
    assert metrics == {"accepted": 3, "rejected": 4}
    ((_, updates, _),) = seen
    assert sorted(updates.malformed) == [0, 1, 2, 3]
    assert "expected 3" in updates.malformed[1]
    assert "NaN" in updates.malformed[2]


def test_nothing_comes_back_where_everyone_failed():
    strategy = legacy(Median(), 2)
    arrays, metrics = one_round(
        strategy, {"0": Shifts(1), "1": Shifts(1)}, lambda c, r: setattr(r, "num_examples", 0)
    )
    np.testing.assert_allclose(arrays[0], START[0])
    assert metrics == {"accepted": 0, "rejected": 2}


def test_a_models_layout_gives_the_arrays_their_names():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    strategy = legacy(FedAvg(), 2)
    strategy.rule.layout = ParameterLayout.from_module(module)
    values = [value.numpy() for value in module.state_dict().values()]

    class Same(NumPyClient):
        def fit(self, parameters, config):
            return parameters, 1, {}

    manager = SimpleClientManager()
    for cid in "01":
        manager.register(Proxy(cid, Same()))
    asked = strategy.configure_fit(1, ndarrays_to_parameters(values), manager)
    results = [(proxy, proxy.fit(ins, None, None)) for proxy, ins in asked]
    parameters, _ = strategy.aggregate_fit(1, results, [])
    for found, wanted in zip(to_arrays(parameters), values, strict=True):
        np.testing.assert_allclose(found, wanted)


def test_aggregating_before_configuring_is_refused():
    with pytest.raises(RuntimeError, match="before configure_fit"):
        legacy(FedAvg(), 2).aggregate_fit(1, [], [])
