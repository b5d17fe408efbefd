"""A server of the older API, which evaluates for itself: FedAvg with an evaluate_fn."""

from functools import cache

import numpy as np
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp
from sklearn.datasets import load_digits


@cache
def digits():
    return load_digits(return_X_y=True)


def evaluate(server_round, parameters, config):
    x, y = digits()
    z = x / 16.0 @ parameters[0] + parameters[1]
    return 0.0, {"accuracy": float((z.argmax(1) == y).mean())}


def server_fn(context: Context):
    start = ndarrays_to_parameters([np.zeros((64, 10)), np.zeros(10)])
    strategy = FedAvg(
        fraction_fit=1.0, fraction_evaluate=0.0, evaluate_fn=evaluate, initial_parameters=start
    )
    config = ServerConfig(num_rounds=context.run_config["num-server-rounds"])
    return ServerAppComponents(strategy=strategy, config=config)


app = ServerApp(server_fn=server_fn)
