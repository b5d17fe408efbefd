"""numpyapp: softmax regression in NumPy."""

from functools import cache

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits


@cache
def digits():
    return load_digits(return_X_y=True)


app = ClientApp()


def probabilities(x, model):
    z = x @ model[0] + model[1]
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def load(context):
    x, y = digits()
    part, parts = context.node_config["partition-id"], context.node_config["num-partitions"]
    return x[part::parts] / 16.0, y[part::parts]


@app.train()
def train(msg: Message, context: Context):
    x, y = load(context)
    model = msg.content["arrays"].to_numpy_ndarrays()
    for _ in range(20):
        gap = (probabilities(x, model) - np.eye(10)[y]) / len(y)
        model = [model[0] - 0.5 * x.T @ gap, model[1] - 0.5 * gap.sum(axis=0)]
    metrics = MetricRecord({"random_metric": np.random.rand(), "num-examples": len(y)})
    return Message(
        content=RecordDict({"arrays": ArrayRecord(model), "metrics": metrics}), reply_to=msg
    )


@app.evaluate()
def evaluate(msg: Message, context: Context):
    x, y = load(context)
    right = probabilities(x, msg.content["arrays"].to_numpy_ndarrays()).argmax(axis=1) == y
    metrics = MetricRecord({"accuracy": float(right.mean()), "num-examples": len(y)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
