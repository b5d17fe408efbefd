"""A federation small enough to check by hand, for the tests of the unlearning room."""

from __future__ import annotations

import torch
from flwr.app import Message
from torch import Tensor, nn

from fedguard.attacks import Attack
from fedguard.clients.federation import Federation
from fedguard.clients.training import ClientTrainer, TrainingSettings
from fedguard.config.requests import UnlearnRequest
from fedguard.data.dataset import Dataset
from fedguard.layout import ParameterLayout
from fedguard.models.build import build
from fedguard.randomness import generator
from fedguard.unlearning.method import Situation
from fedguard.unlearning.pruning import prunable_layers

CLASSES, FEATURES, CLIENTS, ROWS = 3, 6, 4, 30
BAD = 2
"""The client whose labels are poisoned: all of its rows say 1."""


class AllOne(Attack):
    """Labels every row 1."""

    needs = frozenset({"data"})

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return x, torch.ones_like(y)


def federation() -> Federation:
    """Return 4 clients of 30 rows each, 12 rows of the server, 90 test rows: three blobs."""
    rng = generator(0, 0, 0, "blobs")
    total = CLIENTS * ROWS + 12 + 90
    centres = 2.0 * torch.randn(CLASSES, FEATURES, generator=rng)
    y = torch.arange(total) % CLASSES
    x = centres[y] + torch.randn(total, FEATURES, generator=rng)
    data = Dataset(
        "blobs",
        x[:-90],
        y[:-90],
        x[-90:],
        y[-90:],
        CLASSES,
        ("a", "b", "c"),
        (0.0,) * FEATURES,
        (1.0,) * FEATURES,
    )
    shards = [torch.arange(ROWS * k, ROWS * (k + 1)) for k in range(CLIENTS)]
    rows = torch.arange(CLIENTS * ROWS, CLIENTS * ROWS + 12)
    return Federation(data, shards, frozenset({BAD}), AllOne(), 0, rows)


def network(seed: int = 0) -> nn.Module:
    """Return a network of one hidden layer of 8 units."""
    return build("mlp", (FEATURES,), CLASSES, seed, hidden=(8,))


def trainer() -> ClientTrainer:
    """Return a trainer of the federation's clients."""
    settings = TrainingSettings(
        lr=0.1, momentum=0.0, weight_decay=0.0, local_epochs=2, batch_size=10
    )
    return ClientTrainer(network(), federation(), settings, seed=5)


def flat(module: nn.Module) -> tuple[ParameterLayout, Tensor]:
    """Return a network's layout and its weights as a vector."""
    layout = ParameterLayout.from_module(module)
    return layout, layout.flatten(module.state_dict())


def situation(
    *requests: UnlearnRequest, module: nn.Module | None = None, **values: object
) -> Situation:
    """Return a situation around a network, by default one client's request."""
    made = network() if module is None else module
    layout, vector = flat(made)
    arguments = {
        "vector": vector,
        "initial": flat(network(1))[1],
        "requests": requests or (request(1),),
        "layout": layout,
        "layers": prunable_layers(made),
        "last_models": {},
        "rng": generator(0, 3, 0, "unlearning"),
        **values,
    }
    return Situation(**arguments)  # type: ignore[arg-type]


def request(client: int, when: int = 3, **values: object) -> UnlearnRequest:
    """Return a client's request."""
    return UnlearnRequest(client=client, round=when, **values)  # type: ignore[arg-type]


def reply(content: object, node: int, kind: str = "train.unlearn") -> Message:
    """Return a reply of a node."""
    from flwr.app import RecordDict

    from fedguard.grids.identity import assume_server_identity

    assume_server_identity()
    question = Message(RecordDict(), dst_node_id=node, message_type=kind)
    return Message(content, reply_to=question)  # type: ignore[arg-type]
