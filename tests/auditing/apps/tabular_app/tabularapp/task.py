"""tabularapp: a table as a data frame, a small network, one probability."""

from functools import cache

import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@cache
def table() -> pd.DataFrame:
    frame = load_breast_cancer(as_frame=True).frame
    columns = frame.columns.drop("target")
    frame[columns] = (frame[columns] - frame[columns].mean()) / frame[columns].std()
    return frame


class Classifier(nn.Module):
    def __init__(self, input_dim=30):
        super().__init__()
        self.layer1 = nn.Linear(input_dim, 16)
        self.output = nn.Linear(16, 1)

    def forward(self, x):
        return torch.sigmoid(self.output(torch.relu(self.layer1(x)))).squeeze(1)


def load_data(partition_id, num_partitions):
    frame = table().iloc[partition_id::num_partitions]
    x = torch.tensor(frame.drop(columns="target").values, dtype=torch.float32)
    y = torch.tensor(frame["target"].values, dtype=torch.float32)
    cut = int(0.7 * len(y))
    train = DataLoader(TensorDataset(x[:cut], y[:cut]), batch_size=16, shuffle=True)
    return train, DataLoader(TensorDataset(x[cut:], y[cut:]), batch_size=64)


def train(model, loader, epochs, lr):
    criterion, optimizer = nn.BCELoss(), torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()


def evaluate(model, loader):
    loss, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for x, y in loader:
            found = model(x)
            loss += nn.functional.binary_cross_entropy(found, y, reduction="sum").item()
            correct += int(((found > 0.5) == (y > 0.5)).sum())
            count += len(y)
    return loss / count, correct / count
