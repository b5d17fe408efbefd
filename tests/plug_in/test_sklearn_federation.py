"""Our strategies, unchanged, in a federation that knows nothing of fedguard."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.simulation import run_simulation

from fedguard import strategies
from fedguard.grids.foreign_app import ClientAppGrid
from fedguard.registry import create, find, names

sys.path.insert(0, str(Path(__file__).parent))
import sklearn_app

PLAIN = {"arrays": "arrays", "examples": "num-examples"}
OTHER = {"arrays": "weights", "examples": "rows"}
NODES = 6
AGNOSTIC = [
    name
    for name in names("strategy")
    if not getattr(find("strategy", name), "needs_server_tools", True)
    and not find("strategy", name).__module__.endswith(("ckks", "secagg", "xmkckks_cost_model"))
]


def in_process(strategy, keys):
    """Run the very same apps on the in-process grid; a real Flower run follows below."""
    found: dict[str, float] = {}
    grid = ClientAppGrid(sklearn_app.make_client_app(keys), NODES, {})
    start = ArrayRecord([np.zeros((10, 64)), np.zeros(10)])
    result = strategy.start(grid=grid, initial_arrays=start, num_rounds=3, timeout=60)
    _, x, _, y = sklearn_app.digits()
    found["accuracy"] = sklearn_app.model_of(result.arrays.to_numpy_ndarrays()).score(x, y)
    return found["accuracy"], result


def test_there_are_enough_strategies_that_need_no_model():
    assert len(AGNOSTIC) >= 15


@pytest.mark.parametrize("name", AGNOSTIC)
def test_every_model_agnostic_strategy_runs_on_bare_arrays(name):
    accuracy, result = in_process(create("strategy", name, min_available_nodes=NODES), PLAIN)
    shapes = [array.shape for array in result.arrays.to_numpy_ndarrays()]
    assert shapes == [(10, 64), (10,)]
    assert all(array.dtype == np.float64 for array in result.arrays.to_numpy_ndarrays())
    assert np.isfinite(accuracy)


@pytest.mark.parametrize("rule", ["Krum", "MultiKrum", "Median", "TrimmedMean", "GeometricMedian"])
def test_robust_rules_survive_the_hostile_client_that_averaging_does_not(rule):
    keys = {"arrayrecord_key": "weights", "configrecord_key": "setup", "weighted_by_key": "rows"}
    attacked, _ = in_process(strategies.FedAvg(min_available_nodes=NODES, **keys), OTHER)
    accuracy, result = in_process(
        getattr(strategies, rule)(min_available_nodes=NODES, **keys), OTHER
    )
    assert accuracy > 0.8
    assert accuracy > attacked + 0.1
    assert len(result.train_metrics_clientapp) == 3


def test_a_missing_number_of_examples_sets_every_client_aside():
    _, result = in_process(strategies.Median(min_available_nodes=NODES), {**PLAIN, "examples": "n"})
    assert result.train_metrics_clientapp[1] == {"accepted": 0, "rejected": NODES}


def test_on_flowers_simulation_runtime_with_other_record_names():
    """One Flower run; the rules above differ only in `combine`."""
    found: dict[str, float] = {}
    strategy = strategies.MultiKrum(
        min_available_nodes=NODES,
        arrayrecord_key="weights",
        configrecord_key="setup",
        weighted_by_key="rows",
    )
    run_simulation(
        sklearn_app.make_server_app(strategy, 2, found),
        sklearn_app.make_client_app(OTHER),
        num_supernodes=NODES,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    assert found["accuracy"] > 0.7
