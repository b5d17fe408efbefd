"""What every aggregation rule costs: the catalogue's column.

    OMP_NUM_THREADS=1 python -m benchmarks.catalogue_costs [--only NAME ...]

Processor seconds of one round on a 50 x 1,000,000 float32 matrix, summed over threads, so that
other work on the machine hardly counts; the least of three rounds after a first one, which loads
the libraries. Rules that need a model have a perceptron of that size and 64 rows. Encrypted
strategies are left out: their cost is their clients'. Writes ``fedguard/commands/costs.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch

from benchmarks.aggregation import ENCRYPTED, FULL, _Network
from fedguard import registry
from fedguard.layout import ParameterLayout
from fedguard.strategies.base import RobustStrategy, ServerTools
from fedguard.updates import ClientUpdates

FILE = Path(__file__).resolve().parents[1] / "fedguard" / "commands" / "costs.json"
ROUNDS = 3


def cost(name: str, shape: tuple[int, int]) -> float:
    """Return the least processor seconds of a round under a rule."""
    model = _Network(shape[1])
    layout = ParameterLayout.from_module(model)
    stream = torch.Generator().manual_seed(1)
    rows = torch.empty(shape[0], layout.size).normal_(0.001, 0.01, generator=stream)
    updates = ClientUpdates(
        rows,
        torch.ones(shape[0], dtype=torch.float64),
        tuple(range(shape[0])),
        layout.flatten(model.state_dict()),
        layout,
    )
    rule: RobustStrategy = registry.create("strategy", name)
    x, y = torch.rand(64, 784, generator=stream), torch.arange(64) % 10
    rule.tools = ServerTools.of(model, x, y)
    found = []
    for at in range(1, ROUNDS + 2):
        fresh = dataclasses.replace(updates, server_round=at)
        started = time.process_time()
        rule.decide(fresh)
        found.append(time.process_time() - started)
    return min(found[1:])


def names() -> list[str]:
    """Return the rules that are measured."""
    return [name for name in registry.names("strategy") if name not in {*ENCRYPTED, "soul"}]


def main() -> None:
    """Measure, and write the file after every rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="rules to measure anew; all if left out")
    wanted = parser.parse_args().only or names()
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for name in wanted:
        known[name] = float(f"{cost(name, FULL):.2g}")
        print(f"{name}: {known[name]:g} s", flush=True)
        text = json.dumps(dict(sorted(known.items())), indent=2) + "\n"
        FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
