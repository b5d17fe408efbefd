"""A client of Flower's older API: softmax regression in NumPy."""

from functools import cache

import numpy as np
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import Context
from sklearn.datasets import load_digits


@cache
def digits():
    return load_digits(return_X_y=True)


def probabilities(x, model):
    z = x @ model[0] + model[1]
    z = np.exp(z - z.max(axis=1)[:, None])
    return z / z.sum(axis=1)[:, None]


class FlowerClient(NumPyClient):
    def __init__(self, x, y, epochs):
        self.x, self.y, self.epochs = x, y, epochs

    def get_parameters(self, config):
        return [np.zeros((64, 10)), np.zeros(10)]

    def fit(self, parameters, config):
        model = parameters
        for _ in range(self.epochs):
            gap = (probabilities(self.x, model) - np.eye(10)[self.y]) / len(self.y)
            model = [model[0] - 0.5 * self.x.T @ gap, model[1] - 0.5 * gap.sum(axis=0)]
        return model, len(self.y), {}

    def evaluate(self, parameters, config):
        p = probabilities(self.x, parameters)
        loss = float(-np.log(p[np.arange(len(self.y)), self.y] + 1e-9).mean())
        return loss, len(self.y), {"accuracy": float((p.argmax(1) == self.y).mean())}


def client_fn(context: Context):
    x, y = digits()
    part, parts = context.node_config["partition-id"], context.node_config["num-partitions"]
    epochs = context.run_config["local-epochs"]
    return FlowerClient(x[part::parts] / 16.0, y[part::parts], epochs).to_client()


app = ClientApp(client_fn)
