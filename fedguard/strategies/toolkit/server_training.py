"""The server's own update, for rules that trust the server's data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedguard.errors import check_number
from fedguard.randomness import SERVER, generator, stream_seed
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.updates import ClientUpdates


def check_training(epochs: int, batch_size: int, lr: float) -> None:
    """Check the arguments of the server's training."""
    check_number("server_epochs", epochs, at_least=1)
    check_number("server_batch_size", batch_size, at_least=2)
    check_number("server_lr", lr, above=0.0)


def require_tools(strategy: RobustStrategy) -> ServerTools:
    """Return the strategy's tools, or say that they are missing."""
    if strategy.tools is None:
        name = type(strategy).__name__
        raise RuntimeError(f"{name} needs the server's model and data: set its tools first")
    return strategy.tools


def server_update(
    strategy: RobustStrategy, updates: ClientUpdates, *, epochs: int, batch_size: int, lr: float
) -> Tensor:
    """Return the (D,) delta of training the global model on the server's examples.

    Plain SGD on the cross-entropy, batches in an order drawn for the round. The model of the
    strategy's tools is overwritten. A last batch of a single example is left out, because
    BatchNorm cannot train on it.

    Parameters
    ----------
    strategy : RobustStrategy
        Whose tools and seed are used.
    updates : ClientUpdates
        The round, for its global model.
    epochs, batch_size, lr : int, int, float
        Passes over the data, examples per step, step size.
    """
    tools = require_tools(strategy)
    model, layout = tools.model, updates.layout
    layout.load(model, updates.global_vector)
    model.train()
    device = tools.x.device
    order = generator(strategy.seed, updates.server_round, SERVER, "server batches")
    # An attacker that searches against the rule calls it where gradients are switched off.
    with torch.enable_grad(), torch.random.fork_rng([] if device.type == "cpu" else [device]):
        torch.manual_seed(stream_seed(strategy.seed, updates.server_round, SERVER, "dropout"))
        optimiser = torch.optim.SGD(model.parameters(), lr=lr)
        for _ in range(epochs):
            shuffled = torch.randperm(len(tools.y), generator=order).to(device)
            for batch in torch.split(shuffled, batch_size):
                if len(batch) > 1:
                    optimiser.zero_grad()
                    torch.autograd.backward(cross_entropy(model(tools.x[batch]), tools.y[batch]))
                    optimiser.step()
    model.eval()
    model.zero_grad(set_to_none=True)
    return layout.flatten(model.state_dict()) - updates.global_vector
