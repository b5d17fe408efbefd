"""Hostile vectors: what four clients of twenty can do to every aggregation rule.

Sixteen honest updates of 2,000 parameters are drawn from N(0.05, 0.1^2); four hostile ones come
first. Printed is the distance of each rule's result from the honest mean, in units of the mean
distance of an honest update from it: a rule that takes one honest client gives about 1, the bar
is 1.5. ByzFL's and Flower's rules are told the true number of hostile clients, four; ours assume
a fraction. ByzFL works on float64 here, which favours it.

    python simulations/hostile_vectors.py [--seeds 1]
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import byzfl
import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray
from torch import Tensor, nn

from fedguard import registry
from fedguard.grids.identity import assume_server_identity
from fedguard.randomness import generator
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.testing import HOSTILE_KINDS, hostile_rows
from fedguard.updates import ClientUpdates, ParameterLayout

HONEST, HOSTILE, SIZE = 16, 4, 2000
SECONDS_ALLOWED = 20

Rule = Callable[[Tensor], NDArray[np.float64]]


def server_tools() -> ServerTools:
    """Return a classifier with exactly 2,000 parameters and 200 examples for the server."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(78, 20), nn.ReLU(), nn.Linear(20, 20))
    stream = generator(0, 0, 0, "hostile vectors")
    y = torch.arange(200) % 20
    x = torch.randn(20, 78, generator=stream)[y] + 0.3 * torch.randn(200, 78, generator=stream)
    return ServerTools(model, x, y, latent_layer="1", num_classes=20)


def ours(name: str) -> Rule:
    """Return one of our strategies, by registered name or class path, as a plain function."""

    def rule(rows: Tensor) -> NDArray[np.float64]:
        strategy: RobustStrategy = registry.create("strategy", name)
        tools = server_tools()
        layout = ParameterLayout.from_module(tools.model)
        strategy.tools = tools
        start = layout.flatten(tools.model.state_dict())
        updates = ClientUpdates.from_matrix(rows, global_vector=start, layout=layout)
        return strategy.decide(updates).delta.double().numpy()

    return rule


def byzfls(part: Any, **arguments: Any) -> Rule:
    """Return one of ByzFL's aggregators as a plain function."""
    return lambda rows: np.asarray(part(**arguments)(rows.double().numpy()))


def flowers(part: Any, **arguments: Any) -> Rule:
    """Return one of Flower's strategies as a plain function."""

    def rule(rows: Tensor) -> NDArray[np.float64]:
        strategy = part(fraction_evaluate=0.0, **arguments)
        replies = []
        for node, row in enumerate(rows):
            content = RecordDict({"arrays": ArrayRecord([row.numpy()])})
            asked = Message(content, dst_node_id=node + 1, message_type=MessageType.TRAIN)
            metrics = MetricRecord({"num-examples": 1})
            answer = RecordDict({"arrays": ArrayRecord([row.numpy()]), "metrics": metrics})
            replies.append(Message(answer, reply_to=asked))
        arrays, _ = strategy.aggregate_train(1, replies)
        return np.asarray(arrays.to_numpy_ndarrays()[0], dtype=np.float64)

    return rule


def our_rules() -> dict[str, Rule]:
    """Return every registered strategy of ours."""
    return {f"fedguard {name}": ours(name) for name in registry.names("strategy")}


def other_rules() -> dict[str, Rule]:
    """Return ByzFL's aggregators and Flower's robust strategies, told the truth."""
    bounded = ["TrMean", "Krum", "MultiKrum", "MDA", "MoNNA", "Meamed", "CAF", "SMEA"]
    rules = {f"ByzFL {name}": byzfls(getattr(byzfl, name), f=HOSTILE) for name in bounded}
    for name in ("Average", "Median", "GeometricMedian", "CenteredClipping"):
        rules[f"ByzFL {name}"] = byzfls(getattr(byzfl, name))
    rules["Flower FedAvg"] = flowers(flower.FedAvg)
    rules["Flower FedMedian"] = flowers(flower.FedMedian)
    rules["Flower FedTrimmedAvg"] = flowers(flower.FedTrimmedAvg, beta=HOSTILE / (HONEST + HOSTILE))
    rules["Flower Krum"] = flowers(flower.Krum, num_malicious_nodes=HOSTILE)
    rules["Flower MultiKrum"] = flowers(
        flower.MultiKrum, num_malicious_nodes=HOSTILE, num_nodes_to_select=HONEST
    )
    rules["Flower Bulyan"] = flowers(flower.Bulyan, num_malicious_nodes=HOSTILE)
    return rules


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def deviation(rule: Rule, kind: str, seed: int) -> float:
    """Return the distance from the honest mean in mean honest distances; NaN if not finite.

    Raises
    ------
    TimeoutError
        If the rule does not answer in `SECONDS_ALLOWED`.
    """
    stream = generator(seed, 0, 0, "honest vectors")
    honest = 0.05 + 0.1 * torch.randn(HONEST, SIZE, generator=stream)
    rows = torch.cat([hostile_rows(kind, honest, HOSTILE), honest])
    centre = honest.double().mean(dim=0)
    spread = float((honest - centre).norm(dim=1).mean())
    with _time_limit(SECONDS_ALLOWED):
        result = torch.from_numpy(rule(rows))
    distance = float((result - centre).norm()) / spread
    return distance if math.isfinite(distance) else math.nan


def cell(rule: Rule, kind: str, seeds: int) -> str:
    """Return the worst deviation over seeds as a table cell."""
    try:
        found = [deviation(rule, kind, seed) for seed in range(seeds)]
    except TimeoutError:
        return f"**no answer in {SECONDS_ALLOWED} s**"
    except Exception as error:  # other people's rules fail in their own ways
        return f"**{type(error).__name__}**"
    if any(math.isnan(value) for value in found):
        return "**NaN**"
    worst = max(found)
    text = f"{worst:.2f}" if worst < 1000 else f"{worst:.0e}"
    return text if worst <= 1.5 else f"**{text}**"


def table(rules: dict[str, Rule], seeds: int) -> str:
    """Return the table of all rules as markdown; what misses the bar is bold."""
    lines = [
        "| rule | " + " | ".join(HOSTILE_KINDS) + " |",
        "|---|" + "---|" * len(HOSTILE_KINDS),
    ]
    for name, rule in rules.items():
        cells = [cell(rule, kind, seeds) for kind in HOSTILE_KINDS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The hostile-vector table as markdown.")
    parser.add_argument("--seeds", type=int, default=1, help="draws; the worst is printed")
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    assume_server_identity()
    print(table(our_rules() | other_rules(), arguments.seeds))


if __name__ == "__main__":
    main()
