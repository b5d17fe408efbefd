"""Soak: many rounds on a network that fails, against the same rounds on one that does not.

Every round has to close, the accuracy has to stay within one point of the fault-free run, and
memory must not grow between round 50 (or a quarter of the rounds) and the end.

    python simulations/soak.py [--rounds 200] [--strategies geminiguard trimmed-mean]
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from fedguard.config import parse
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

FAULTS = {"dropout": 0.3, "corrupt": 0.1, "duplicate": 0.1}
POINTS_ALLOWED = 1.0
GROWTH_ALLOWED = 16.0
"""MiB: what Python's and PyTorch's allocators move about in a run that keeps nothing."""

LAST = 20
"""Rounds at the end whose mean accuracy is compared; one round on 359 test images jumps about."""


def resident_mib() -> float:
    """Return the memory of this process that is in RAM now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmRSS in /proc/self/status")


def run(strategy: str, rounds: int, faults: dict[str, float], out: Path) -> dict[str, Any]:
    """Run once; return accuracies, memory and what the network did."""
    values = {"strategy": strategy, "rounds": rounds, "faults": faults}
    memory: dict[int, float] = {}
    early = min(50, max(1, rounds // 4))

    def watch(record: dict[str, Any]) -> None:
        if record["round"] in (early, rounds):
            gc.collect()
            memory[record["round"]] = resident_mib()

    summary = Simulation(parse(values)).run(out, on_round=watch)
    records = read_jsonl(out / "rounds.jsonl")[1:]
    accuracies = [100 * record["accuracy"] for record in records]
    counts: dict[str, int] = {}
    for record in records:
        for kind, count in record.get("faults", {}).items():
            counts[kind] = counts.get(kind, 0) + count
    return {
        "strategy": strategy,
        "faults": counts,
        "closed": len(records),
        "finite": all(math.isfinite(record["loss"] or math.nan) for record in records),
        "final": round(accuracies[-1], 2),
        "late_mean": round(statistics.fmean(accuracies[-LAST:]), 2),
        "mib_early": round(memory[early], 1),
        "mib_end": round(memory[rounds], 1),
        "seconds": round(summary["seconds"], 1),
    }


def judge(faulty: dict[str, Any], calm: dict[str, Any], rounds: int) -> list[str]:
    """Return what a pair of runs falls short of."""
    lost = calm["late_mean"] - faulty["late_mean"]
    grown = max(r["mib_end"] - r["mib_early"] for r in (faulty, calm))
    problems = {
        f"only {faulty['closed']} of {rounds} rounds closed": faulty["closed"] != rounds,
        "a round's loss is not finite": not faulty["finite"],
        f"{lost:.2f} points below the fault-free run": lost > POINTS_ALLOWED,
        f"{grown:.1f} MiB more at the end": grown > GROWTH_ALLOWED,
    }
    return [f"{faulty['strategy']}: {words}" for words, true in problems.items() if true]


def main() -> int:
    """Soak every strategy; return 1 where one falls short."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--strategies", nargs="+", default=["geminiguard", "trimmed-mean"])
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for strategy in options.strategies:
            folders = {name: Path(folder) / f"{strategy}-{name}" for name in ("faulty", "calm")}
            faulty = run(strategy, options.rounds, FAULTS, folders["faulty"])
            calm = run(strategy, options.rounds, {}, folders["calm"])
            for found in (faulty, calm):
                print(json.dumps(found), flush=True)
            problems += judge(faulty, calm, options.rounds)
    for problem in problems:
        print(f"soak: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
