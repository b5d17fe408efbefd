"""What unlearning costs: floating-point operations, bytes, and time on a radio link."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedguard.errors import check_number
from fedguard.randomness import numpy_generator

_LIGHT = 299_792_458.0
_BACKWARD = 2.0
"""A backward pass costs about two forward ones."""


@torch.no_grad()
def forward_flops(module: nn.Module, example: Tensor) -> float:
    """Return the operations of one example's forward pass: 2 per multiply-add of weighted layers.

    Parameters
    ----------
    module : nn.Module
        A network.
    example : Tensor
        (1, ...) one example as the network sees it.
    """
    total = 0.0

    def count(part: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        weight = part.weight
        assert isinstance(weight, Tensor)
        total += 2.0 * weight[0].numel() * output[0].numel()

    weighted = [part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    handles = [part.register_forward_hook(count) for part in weighted]
    training = module.training
    try:
        module.eval()(example)
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    return total


@dataclass(frozen=True)
class LinkModel:
    """Time of a round of drones around a server, without drones.

    ``rate = W log2(1 + p g / (N0 W))`` with the free-space gain ``g = (c / (4 pi f d))^2`` at
    distance d; a round lasts as long as its slowest client: down, compute, up.

    A model of ours in the form usual for federated learning by unmanned aircraft; distances are
    drawn once per client.

    Attributes
    ----------
    bandwidth_hz : float
        W, per client.
    power_w, server_power_w : float
        p of a client and of the server.
    noise_w_per_hz : float
        N0.
    carrier_hz : float
        f.
    nearest_m, farthest_m : float
        Range of distances.
    flops_per_second : float
        Speed of a client's processor.
    """

    bandwidth_hz: float = 1e6
    power_w: float = 0.1
    server_power_w: float = 1.0
    noise_w_per_hz: float = 4e-21
    carrier_hz: float = 2.4e9
    nearest_m: float = 100.0
    farthest_m: float = 1000.0
    flops_per_second: float = 1e9

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_number(f"link.{name}", value, above=0.0)

    def rate(self, distance: float, power: float) -> float:
        """Return bits per second over a distance in metres."""
        gain = (_LIGHT / (4.0 * math.pi * self.carrier_hz * distance)) ** 2
        noise = self.noise_w_per_hz * self.bandwidth_hz
        return self.bandwidth_hz * math.log2(1.0 + power * gain / noise)

    def distance(self, client: int, seed: int) -> float:
        """Return a client's distance in metres."""
        stream = numpy_generator(seed, 0, client, "distance")
        return float(stream.uniform(self.nearest_m, self.farthest_m))

    def seconds(self, load: ClientLoad, flops: float, seed: int) -> float:
        """Return how long one client takes in one round."""
        distance = self.distance(load.client, seed)
        down = 8.0 * load.down / self.rate(distance, self.server_power_w)
        up = 8.0 * load.up / self.rate(distance, self.power_w)
        return down + flops / self.flops_per_second + up


@dataclass(frozen=True)
class ClientLoad:
    """What one client did in one round.

    Attributes
    ----------
    client : int
        Who.
    trained, forwarded : float
        Examples that went forward and back, and that only went forward.
    down, up : int
        Bytes received and sent.
    """

    client: int
    trained: float
    forwarded: float
    down: int
    up: int


@dataclass
class CostLedger:
    """Costs round by round.

    Attributes
    ----------
    flops_per_example : float
        Of one forward pass.
    link : LinkModel
        Times on the link.
    seed : int
        Draws the clients' distances.
    rounds : dict of int to dict
        Round to ``flops``, ``bytes``, ``link_seconds``.
    """

    flops_per_example: float
    link: LinkModel
    seed: int
    rounds: dict[int, dict[str, float]] = field(default_factory=dict)

    def flops(self, load: ClientLoad) -> float:
        """Return the operations of one client's round."""
        passes = (1.0 + _BACKWARD) * load.trained + load.forwarded
        return passes * self.flops_per_example

    def add(self, server_round: int, loads: Iterable[ClientLoad]) -> None:
        """Enter a round."""
        known = list(loads)
        times = [self.link.seconds(load, self.flops(load), self.seed) for load in known]
        self.rounds[server_round] = {
            "flops": sum(self.flops(load) for load in known),
            "bytes": float(sum(load.down + load.up for load in known)),
            "link_seconds": max(times, default=0.0),
        }

    def between(self, first: int, last: int) -> dict[str, float]:
        """Return the totals of rounds `first` to `last`."""
        total = {"flops": 0.0, "bytes": 0.0, "link_seconds": 0.0}
        for server_round, entry in self.rounds.items():
            if first <= server_round <= last:
                for name in total:
                    total[name] += entry[name]
        return total


def ratios(cost: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float | None]:
    """Return each cost as a share of a reference's, None where that is 0."""
    return {
        name: None if not reference.get(name) else value / reference[name]
        for name, value in cost.items()
    }
