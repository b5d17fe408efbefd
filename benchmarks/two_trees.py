"""The engine of two trees of fedguard side by side: `benchmarks/engine.py` of each, in turns.

    python benchmarks/two_trees.py --before OLD_TREE [--only noop startup logistic mlp cnn memory]
                                   [--turns 4] [--repeats 15]

Each turn is a process of its own for each tree, the order swapped from turn to turn. Printed are
the seconds of each tree (the least over all turns, and the median) and old over new: above 1 the
working tree is the faster. The least is what the code costs; the median carries the machine's
other work too.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

WORKS = ("noop", "startup", "logistic", "mlp", "cnn", "memory")
HERE = Path(__file__).resolve().parents[1]
SPREAD = re.compile(r"^  (?:fedguard|inprocess) +([0-9.]+) / ([0-9.]+) / ", re.MULTILINE)
WHOLE = re.compile(r"digits mlp, ([0-9.]+) s;")


def measured(tree: Path, work: str, repeats: int) -> tuple[float, float]:
    """Return the least and the median that a tree's own benchmark prints for one work."""
    command = [sys.executable, "benchmarks/engine.py", "--only", work, "--no-flower"]
    done = subprocess.run(
        [*command, "--repeats", str(repeats if work != "startup" else 2)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "FLWR_TELEMETRY_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    if whole := WHOLE.search(done.stdout):
        return float(whole[1]), float(whole[1])
    found = SPREAD.search(done.stdout)
    if found is None:
        raise SystemExit(f"{tree}: {work} printed no time:\n{done.stdout}")
    return float(found[1]), float(found[2])


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    trees = {"old": options.before.resolve(), "new": HERE}
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; old, new, old / new")
    for work in options.only:
        found: dict[str, list[tuple[float, float]]] = {"old": [], "new": []}
        for turn in range(options.turns):
            for name in sorted(trees, reverse=turn % 2 == 0):
                found[name].append(measured(trees[name], work, options.repeats))
        least = {name: min(low for low, _ in values) for name, values in found.items()}
        middle = {name: statistics.median(m for _, m in values) for name, values in found.items()}
        for label, value in (("least", least), ("median", middle)):
            print(
                f"{work:10s} {label:7s} {value['old']:8.3f} {value['new']:8.3f}   "
                f"{value['old'] / value['new']:.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
