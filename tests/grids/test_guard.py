"""One line before a ServerApp, of today's API and of the older one, in Flower's runtime too."""

from __future__ import annotations

import random
from logging import ERROR, getLogger

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAdam, FedAvg
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg as TodaysFedAvg
from foreign_servers import CLIENTS, PullingGrid, distance, first_arrays, scaled

import fedguard
from fedguard.errors import ConfigurationError
from fedguard.grids.foreign_app import ClientAppGrid
from fedguard.grids.guarded import Guarded
from fedguard.strategies import Median

GOAL = np.array([1.0, -2.0, 3.0])


@pytest.fixture(autouse=True)
def quiet():
    getLogger("flwr").setLevel(ERROR)
    yield
    getLogger("flwr").setLevel("INFO")


def context(**config) -> Context:
    return Context(1, 0, {}, RecordDict(), config)


def todays_app(found: dict) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid, context):
        random.seed(1)
        strategy = TodaysFedAvg()
        rounds = int(context.run_config.get("rounds", 8))
        result = strategy.start(grid=grid, initial_arrays=first_arrays(), num_rounds=rounds)
        found["distance"] = distance(result.arrays)

    return app


def test_an_app_is_defended_by_one_line():
    found: dict = {}
    app = todays_app(found)
    lies = {1: scaled(60.0)}
    app(PullingGrid(lies), context())
    assert found["distance"] > 1.0
    guarded = fedguard.guard("multi-krum", assumed_malicious=0.2)(app)
    assert isinstance(guarded, ServerApp)
    guarded(PullingGrid(lies), context())
    assert found["distance"] < 0.1


def test_a_main_function_is_defended_by_a_decorator():
    seen = []
    app = ServerApp()

    @app.main()
    @fedguard.guard(Median())
    def main(grid, context):
        """Say what it is given."""
        seen.append(grid)

    app(PullingGrid(), context())
    assert isinstance(seen[0], Guarded)
    assert main.__doc__ == "Say what it is given."


def test_a_rule_that_is_given_by_name_begins_anew_in_every_run():
    rules = []

    @fedguard.guard("foolsgold")
    def main(grid, context):
        rules.append(grid.rule)

    main(PullingGrid(), context())
    main(PullingGrid(), context())
    assert rules[0] is not rules[1]


def test_what_cannot_work_is_refused_where_it_is_written():
    with pytest.raises(ConfigurationError, match="did you mean 'multi-krum'"):
        fedguard.guard("multikrum")
    with pytest.raises(ConfigurationError, match=r"strategy\.assumed_malicious"):
        fedguard.guard("multi-krum", assumed_malicious=0.7)
    with pytest.raises(ConfigurationError, match="a flwr ServerApp"):
        fedguard.guard("multi-krum")(3)


class Puller(NumPyClient):
    """A client of the older API; `mode` is what a liar answers."""

    def __init__(self, part: int, mode: str = "honest") -> None:
        self.part, self.mode = part, mode

    def get_parameters(self, config):
        return [np.zeros(3), np.zeros((2, 2))]

    def fit(self, parameters, config):
        own = GOAL + 0.02 * np.random.default_rng(self.part).standard_normal(3)
        vector, square = parameters
        model = [vector + 0.5 * (own - vector), square + 0.5 * (1.0 - square)]
        if self.mode == "scaled":
            model = [a - 60.0 * (b - a) for a, b in zip(parameters, model, strict=True)]
        if self.mode == "nan":
            model[0] = model[0] * np.nan
        if self.mode == "short":
            model = model[:1]
        if self.mode == "raises":
            raise OSError("disk full")
        return model, 10 + self.part, {"train_loss": 0.5}

    def evaluate(self, parameters, config):
        return float(np.abs(parameters[0] - GOAL).max()), 10, {"accuracy": 0.5}


def older_clients(mode: str = "honest") -> ClientApp:
    def client_fn(context: Context):
        part = int(context.node_config["partition-id"])
        return Puller(part, mode if part in (1, 4) else "honest").to_client()

    return ClientApp(client_fn)


class Keeping(FedAdam):
    """Keeps the newest model; its own server-side rate makes it follow the average."""

    newest: list

    def aggregate_fit(self, server_round, results, failures):
        found = super().aggregate_fit(server_round, results, failures)
        if found[0] is not None:
            self.newest = parameters_to_ndarrays(found[0])
        return found


def older_app(strategy: FedAvg, form: str) -> ServerApp:
    config = ServerConfig(num_rounds=8)
    if form == "server_fn":
        return ServerApp(server_fn=lambda _: ServerAppComponents(strategy=strategy, config=config))
    if form == "strategy":
        return ServerApp(strategy=strategy, config=config)
    app = ServerApp()

    @app.main()
    def main(grid, context):
        legacy = LegacyContext(context=context, config=config, strategy=strategy)
        DefaultWorkflow()(grid, legacy)

    return app


def keeping() -> Keeping:
    start = ndarrays_to_parameters([np.zeros(3), np.zeros((2, 2))])
    return Keeping(initial_parameters=start, eta=0.4, tau=0.5)


def final(form: str, mode: str, guarded: bool) -> np.ndarray:
    np.random.seed(0)
    random.seed(0)
    strategy = keeping()
    app = older_app(strategy, form)
    if guarded:
        app = fedguard.guard("multi-krum", assumed_malicious=0.2)(app)
    app(ClientAppGrid(older_clients(mode), CLIENTS, {}), context())
    return strategy.newest[0]


@pytest.mark.parametrize("form", ["server_fn", "strategy", "workflow"])
def test_servers_of_the_older_api_are_defended_too(form):
    peace = final(form, "honest", guarded=False)
    guarded = final(form, "scaled", guarded=True)
    fallen = final(form, "scaled", guarded=False)
    assert np.abs(guarded - peace).max() < 0.1
    assert np.abs(fallen - peace).max() > 1.0


@pytest.mark.parametrize("mode", ["nan", "short", "raises"])
@pytest.mark.parametrize("form", ["server_fn", "workflow"])
def test_broken_results_of_older_clients_are_set_aside(form, mode):
    found = final(form, mode, guarded=True)
    assert np.abs(found - final(form, "honest", guarded=False)).max() < 0.1


def test_an_older_server_on_a_guarded_grid_is_told_to_guard_the_app(caplog):
    strategy = keeping()
    app = older_app(strategy, "server_fn")
    app(Guarded(ClientAppGrid(older_clients(), CLIENTS, {}), "median"), context())
    assert not hasattr(strategy, "newest")  # nothing trained, and why is said


def averaged(metrics):
    """Average as quickstarts of the older API do: a client that says something else is an error."""
    assert len({frozenset(told) for _, told in metrics}) == 1
    total = sum(count for count, _ in metrics)
    return {"accuracy": sum(count * told["accuracy"] for count, told in metrics) / total}


@pytest.mark.parametrize(
    "lie", [(float("nan"), 10, {"accuracy": 0.5}), (0.1, 10, {}), (0.1, 10**12, {"accuracy": 9.0})]
)
@pytest.mark.parametrize("form", ["server_fn", "workflow"])
def test_an_older_clients_evaluation_decides_for_nobody_else(form, lie):
    class Lying(Puller):
        def evaluate(self, parameters, config):
            return lie if self.part == 1 else super().evaluate(parameters, config)

    strategy = keeping()
    strategy.evaluate_metrics_aggregation_fn = averaged
    seen = []
    inner = strategy.aggregate_evaluate

    def noted(*rest):
        seen.append(inner(*rest))
        return seen[-1]

    strategy.aggregate_evaluate = noted
    app = fedguard.guard("median")(older_app(strategy, form))
    clients = ClientApp(lambda c: Lying(int(c.node_config["partition-id"])).to_client())
    app(ClientAppGrid(clients, CLIENTS, {}), context())
    loss, metrics = seen[-1]
    assert np.isfinite(loss)
    assert metrics == {"accuracy": pytest.approx(0.5)}


def test_an_older_strategy_with_a_model_for_each_client_is_refused():
    class Personal(Keeping):
        def configure_fit(self, server_round, parameters, client_manager):
            chosen = super().configure_fit(server_round, parameters, client_manager)
            for place, (_, instruction) in enumerate(chosen):
                own = [place + array for array in parameters_to_ndarrays(instruction.parameters)]
                chosen[place] = (chosen[place][0], FitIns(ndarrays_to_parameters(own), {}))
            return chosen

    start = ndarrays_to_parameters([np.zeros(3), np.zeros((2, 2))])
    app = older_app(Personal(initial_parameters=start), "server_fn")
    with pytest.raises(ConfigurationError, match="all clients of a round the same model"):
        fedguard.guard("median")(app)(ClientAppGrid(older_clients(), CLIENTS, {}), context())


def make_apps():
    """Return the apps as Flower's runtime loads them in processes of its own."""
    from flwr.app import Array, Message, MetricRecord

    client_app = ClientApp()

    @client_app.train()
    def train(message, context):
        part = int(context.node_config["partition-id"])
        start = message.content["arrays"]["vector"].numpy()
        step = 0.5 * (GOAL - start)
        model = start - 60.0 * step if part == 1 else start + step
        arrays = ArrayRecord({"vector": Array(model)})
        content = RecordDict({"arrays": arrays, "m": MetricRecord({"num-examples": 5})})
        return Message(content, reply_to=message)

    return client_app


@pytest.mark.slow
def test_it_works_in_flowers_own_simulation():
    from flwr.app import Array
    from flwr.simulation import run_simulation

    found = {}
    app = ServerApp()

    @app.main()
    def main(grid, context):
        strategy = TodaysFedAvg(fraction_evaluate=0.0, min_train_nodes=4)
        start = ArrayRecord({"vector": Array(np.zeros(3))})
        result = strategy.start(grid=grid, initial_arrays=start, num_rounds=5)
        found["vector"] = result.arrays["vector"].numpy()

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(fedguard.guard("median")(app), make_apps(), 4, backend_config=resources)
    np.testing.assert_allclose(found["vector"], GOAL * (1 - 0.5**5), atol=1e-5)
