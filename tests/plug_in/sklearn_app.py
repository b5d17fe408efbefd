"""A federation of scikit-learn logistic regressions, written with Flower's public API alone."""

from __future__ import annotations

import warnings

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

MALICIOUS = (1,)


def digits() -> list[np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return train_test_split(x / 16.0, y, test_size=0.25, random_state=0)


def model_of(arrays: list[np.ndarray]) -> LogisticRegression:
    model = LogisticRegression(max_iter=5, warm_start=True)
    model.classes_ = np.arange(10)
    model.coef_, model.intercept_ = (array.copy() for array in arrays)
    return model


def make_client_app(names: dict[str, str]) -> ClientApp:
    """Return the app; `names` says what its records and its number of examples are called."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        x, _, y, _ = digits()
        part = int(context.node_config["partition-id"])
        rows = slice(part, None, int(context.node_config["num-partitions"]))
        model = model_of(message.content[names["arrays"]].to_numpy_ndarrays())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # five iterations are not meant to converge
            model.fit(x[rows], y[rows])
        sign = -5.0 if part in MALICIOUS else 1.0
        trained = ArrayRecord([sign * model.coef_, sign * model.intercept_])
        metrics = MetricRecord({names["examples"]: len(y[rows])})
        content = RecordDict({names["arrays"]: trained, "said": metrics})
        return Message(content, reply_to=message)

    return app


def make_server_app(strategy: Strategy, rounds: int, found: dict[str, float]) -> ServerApp:
    """Return the app that runs a strategy and writes the final accuracy into `found`."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        start = ArrayRecord([np.zeros((10, 64)), np.zeros(10)])
        result = strategy.start(grid=grid, initial_arrays=start, num_rounds=rounds, timeout=120)
        _, x, _, y = digits()
        model = model_of(result.arrays.to_numpy_ndarrays())
        found["accuracy"] = float(model.score(x, y))

    return app
