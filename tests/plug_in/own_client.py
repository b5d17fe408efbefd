"""A user's own ClientApp: its own data, its own training, plain Flower and PyTorch."""

from __future__ import annotations

import sys
import threading
import time

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits
from torch import nn

app = ClientApp()
not_an_app = "text"
torch.optim.SGD([torch.zeros(1)])  # what its first use imports takes seconds


@app.train()
def train(message: Message, context: Context) -> Message:
    part = int(context.node_config["partition-id"])
    parts = int(context.node_config["num-partitions"])
    if part == context.run_config.get("broken-client", -1):
        raise RuntimeError("my data are gone")
    if part == context.run_config.get("leaving-client", -1):
        sys.exit("I have had enough")
    if part == context.run_config.get("endless-client", -1):
        while True:
            time.sleep(0.01)
    if part == context.run_config.get("sleeping-client", -1):
        threading.Event().wait(600)
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x[part::parts] / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    y = torch.tensor(y[part::parts])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    state = message.content["arrays"].to_torch_state_dict()
    names = list(state)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    optimizer = torch.optim.SGD(model.parameters(), lr=float(context.run_config.get("lr", 0.5)))
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    seen = int(context.state["rounds"]["seen"]) if "rounds" in context.state else 0
    context.state["rounds"] = MetricRecord({"seen": seen + 1})
    arrays = ArrayRecord(dict(zip(names, model.state_dict().values(), strict=True)))
    metrics = MetricRecord({"num-examples": len(y), "rounds-seen": seen + 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
