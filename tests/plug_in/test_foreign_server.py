"""A rule in somebody else's Flower server keeps Flower's behaviour: metrics, evaluation, types."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedguard.grids.foreign_app import ClientAppGrid
from fedguard.strategies import FedAvg, Krum, TrimmedMean

START = np.array([1.0, 2.0, 3.0])


def clients(change, *, metrics=None) -> ClientAppGrid:
    """Return five clients; client i sends what `change(i, array)` makes of the array it gets."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context) -> Message:
        i = int(context.node_config["partition-id"])
        array = message.content["arrays"]["w"].numpy()
        said = {"num-examples": i + 1, "loss": float(i), **(metrics or {}).get(i, {})}
        content = {
            "arrays": ArrayRecord({"w": Array(change(i, array))}),
            "metrics": MetricRecord(said),
        }
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context) -> Message:
        i = int(context.node_config["partition-id"])
        said = MetricRecord({"num-examples": i + 1, "accuracy": i / 4})
        return Message(RecordDict({"metrics": said}), reply_to=message)

    return ClientAppGrid(app, 5, {})


def start(strategy, grid, rounds=1):
    return strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"w": Array(START)}),
        num_rounds=rounds,
        train_config=ConfigRecord(),
        evaluate_config=ConfigRecord(),
    )


def test_clients_metrics_are_joined_as_flower_joins_them_and_evaluation_takes_place():
    result = start(FedAvg(), clients(lambda i, w: w + i))
    found = result.train_metrics_clientapp[1]
    assert found["loss"] == pytest.approx(sum((i + 1) * i for i in range(5)) / 15)
    assert (found["accepted"], found["rejected"]) == (5, 0)
    seen = result.evaluate_metrics_clientapp[1]
    assert seen["accuracy"] == pytest.approx(sum((i + 1) * i / 4 for i in range(5)) / 15)


def test_a_function_of_the_users_hears_the_accepted_clients_alone():
    def largest(contents: list[RecordDict], key: str) -> MetricRecord:
        assert key == "num-examples"
        return MetricRecord({"worst": max(content["metrics"]["loss"] for content in contents)})

    rule = Krum(assumed_malicious=0.2, train_metrics_aggr_fn=largest)
    result = start(rule, clients(lambda i, w: w + (1e6 if i == 4 else 0.01 * i)))
    found = result.train_metrics_clientapp[1]
    assert found["worst"] < 4
    assert 1 <= found["accepted"] < 5


def test_metrics_that_do_not_fit_each_other_cost_no_round(caplog):
    with caplog.at_level(logging.WARNING, "flwr"):
        result = start(FedAvg(), clients(lambda i, w: w + 1, metrics={2: {"loss": [1.0, 2.0]}}))
    np.testing.assert_allclose(result.arrays["w"].numpy(), START + 1)
    assert result.train_metrics_clientapp[1]["accepted"] == 5
    assert "metrics could not be joined" in caplog.text


def test_float64_models_keep_what_float32_would_round():
    tiny = 1e-12
    result = start(FedAvg(weighted_by_key="num-examples"), clients(lambda i, w: w + tiny), 3)
    found = result.arrays["w"].numpy()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found - START, 3 * tiny, rtol=1e-3)


def test_who_is_out_and_why_is_logged(caplog):
    def change(i, w):
        return w[:2] if i == 1 else w + (np.nan if i == 3 else 0.0)

    with caplog.at_level(logging.INFO, "flwr"):
        result = start(TrimmedMean(assumed_malicious=0.2), clients(change))
    assert result.train_metrics_clientapp[1]["rejected"] >= 2
    assert "shape (2,), expected (3,)" in caplog.text
    assert "not a number (NaN)" in caplog.text


def test_a_round_in_which_all_fail_alike_says_so(caplog):
    with caplog.at_level(logging.WARNING, "flwr"):
        result = start(FedAvg(), clients(lambda i, w: w[:1]))
    np.testing.assert_array_equal(result.arrays["w"].numpy(), START)
    assert "no reply of round 1 was usable, all for one reason: w has shape (1,)" in caplog.text


def test_clients_that_arrive_late_are_asked_as_the_first_are(monkeypatch):
    grid = clients(lambda i, w: w + i)
    everybody = list(grid.get_node_ids())
    arrived = iter([everybody[:2], everybody[:2], everybody[:4]])
    monkeypatch.setattr(grid, "get_node_ids", lambda: next(arrived, everybody))
    monkeypatch.setattr("time.sleep", lambda _: None)
    result = start(FedAvg(min_available_nodes=5, fraction_evaluate=0.0), grid)
    assert result.train_metrics_clientapp[1]["accepted"] == 5
