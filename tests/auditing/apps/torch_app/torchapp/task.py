"""The model, the data and how both meet."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@cache
def digits():
    return load_digits(return_X_y=True)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def load_data(partition_id, num_partitions, batch_size):
    x, y = digits()
    x = torch.tensor(x / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)[
        partition_id::num_partitions
    ]
    y = torch.tensor(y)[partition_id::num_partitions]
    cut = int(0.8 * len(y))
    train = DataLoader(TensorDataset(x[:cut], y[:cut]), batch_size=batch_size, shuffle=True)
    return train, DataLoader(TensorDataset(x[cut:], y[cut:]), batch_size=batch_size)


def train(net, trainloader, epochs, lr):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    running_loss = 0.0
    for _ in range(epochs):
        for images, labels in trainloader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net, testloader):
    correct, loss, total = 0, 0.0, 0
    with torch.no_grad():
        for images, labels in testloader:
            outputs = net(images)
            loss += nn.functional.cross_entropy(outputs, labels).item()
            correct += int((outputs.argmax(1) == labels).sum())
            total += len(labels)
    return loss / len(testloader), correct / total
