"""Time and memory of a run as registered clients and clients a round grow.

    python -m benchmarks.scale [--registered 100 1000 ...] [--asked 100 1000 ...] [--rounds 8]
                               [--partition iid] [--quick] [--out scale.md]

Every row is a whole run in a process of its own: data, partition, strategy, rounds, records,
checkpoints, summary. All clients hold two rows of 64 features, so the work of a round depends on
how many are asked alone; what a round costs beyond that is what registering costs. The rounds'
times are those of ``rounds.jsonl``; round 1, which normalises the data once, is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedguard.data.dataset import Dataset

ROWS_PER_CLIENT = 2
FEATURES = 64
REGISTERED = (100, 1_000, 10_000, 100_000, 1_000_000)
ASKED = (100, 1_000, 10_000)
PARTITIONS: dict[str, tuple[int, dict[str, float | int]]] = {
    "iid": (5, {}),
    "shards": (5, {}),
    "quantity": (5, {"alpha": 20.0, "min_samples": 1}),
    "dirichlet": (25, {"alpha": 50.0, "min_samples": 1}),
}
"""Rows per client that are divided, and how; few rows leave some client of a million with none."""

BAR_RATIO, BAR_MEMORY = 2.0, 3000.0
"""A round of 1,000 asked among 1,000,000 over one among 10,000; MB of its peak."""


class Rows:
    """Ten classes in 64 features with noise; the same rows for the same number of them.

    Parameters
    ----------
    rows : int
        Training rows; a thousand more are the test set.
    """

    def __init__(self, rows: int = 2_000) -> None:
        self.rows = rows

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the rows; see `DatasetLoader.load`."""
        stream = np.random.default_rng(0)
        means = stream.normal(size=(10, FEATURES)).astype(np.float32)
        labels = stream.integers(0, 10, self.rows + 1000)
        x = stream.standard_normal((len(labels), FEATURES), dtype=np.float32)
        x *= 2.0
        for label in range(10):
            x[labels == label] += means[label]
        x, y = torch.from_numpy(x), torch.from_numpy(labels)
        names = tuple("0123456789")
        zero, one = (0.0,) * FEATURES, (1.0,) * FEATURES
        return Dataset(
            "rows", x[1000:], y[1000:], x[:1000], y[:1000], 10, names, mean=zero, std=one
        )


def one_run(registered: int, asked: int, rounds: int, partition: str) -> dict[str, Any]:
    """Run it here and return its figures; called in a process of its own."""
    from fedguard.config import parse
    from fedguard.runs import simulation

    torch.set_num_threads(1)
    config = parse(
        {
            "dataset": {"name": f"{__name__}:Rows", "rows": ROWS_PER_CLIENT * registered},
            "clients": registered,
            "fraction": asked / registered,
            "partition": partition,
            "strategy": "median",
            "attack": "sign-flip",
            "model": "mlp",
            "rounds": rounds,
            "local_epochs": 1,
            "server_samples": 0,
            "workers": 1,
        }
    )
    started, before = time.perf_counter(), time.process_time()
    made = simulation.Simulation(config)
    setup = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        made.run(out)
        lines = (out / "rounds.jsonl").read_text().splitlines()
        found = {r["round"]: r["seconds"] for r in map(json.loads, lines)}
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    later = [seconds for number, seconds in found.items() if number > 1]
    return {
        "setup": setup,
        "first": found[0] + found[1],
        "rounds": later,
        "whole": time.perf_counter() - started,
        "processor": time.process_time() - before,
        "directory": size / 1e6,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def partition_seconds(clients: int, name: str) -> float:
    """Return how long dividing rows among `clients` takes."""
    from fedguard import registry

    rows, arguments = PARTITIONS[name]
    labels = torch.arange(rows * clients) % 10
    partition = registry.create("partition", name, **arguments)
    started = time.perf_counter()
    partition.split(labels, 10, clients, 0)
    return time.perf_counter() - started


def in_a_process(arguments: list[str]) -> dict[str, Any]:
    """Return what a child process measured, or why it did not."""
    command = [sys.executable, "-m", "benchmarks.scale", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return {"failed": reason[:200]}


def row(registered: int, asked: int, found: dict[str, Any]) -> str:
    """Return one line of the table."""
    if "failed" in found:
        return f"| {registered:,} | {asked:,} | failed: {found['failed']} | | | | |"
    times = found["rounds"]
    spread = " / ".join(
        f"{1e3 * value:.0f}" for value in (min(times), statistics.median(times), max(times))
    )
    return (
        f"| {registered:,} | {asked:,} | {found['setup']:.2f} | {found['first']:.2f} | {spread} "
        f"| {found['peak']:.0f} | {found['directory']:.1f} |"
    )


def verdict(results: dict[tuple[int, int], dict[str, Any]]) -> list[str]:
    """Return each bar with what was measured and whether it was met."""
    few, many = results.get((10_000, 1_000), {}), results.get((1_000_000, 1_000), {})
    if "rounds" not in few or "rounds" not in many:
        return []
    ratio = statistics.median(many["rounds"]) / statistics.median(few["rounds"])
    return [
        f"Round of 1,000 among 1,000,000 over one among 10,000: {ratio:.2f} "
        f"(bar: under {BAR_RATIO:g}; {'met' if ratio < BAR_RATIO else 'missed'})",
        f"Peak of 1,000,000 registered: {many['peak']:.0f} MB "
        f"(bar: under {BAR_MEMORY:.0f}; {'met' if many['peak'] < BAR_MEMORY else 'missed'})",
    ]


def table(options: argparse.Namespace) -> str:
    """Measure and return everything as Markdown."""
    lines = [
        f"torch {torch.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; median "
        f"rule, digits-sized mlp, {ROWS_PER_CLIENT} rows a client, partition {options.partition}",
        "",
        "| registered | asked a round | set-up, s | first round, s | later rounds, ms | peak, MB "
        "| run directory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    results: dict[tuple[int, int], dict[str, Any]] = {}
    for asked in options.asked:
        for registered in options.registered:
            if asked > registered:
                continue
            given = [str(registered), str(asked), str(options.rounds), options.partition]
            results[registered, asked] = in_a_process(["--one-run", *given])
            lines.append(row(registered, asked, results[registered, asked]))
            print(lines[-1], flush=True)
    most = max(options.registered)
    told = [
        f"Dividing rows among {most:,} clients: "
        + ", ".join(
            f"{name} ({rows} each) {_seconds(in_a_process(['--split', str(most), name]))}"
            for name, (rows, _) in PARTITIONS.items()
        ),
        *verdict(results),
    ]
    print("\n" + "\n".join(told), flush=True)
    return "\n".join([*lines, "", *told]) + "\n"


def _seconds(found: dict[str, Any]) -> str:
    return f"{found['seconds']:.2f} s" if "seconds" in found else f"failed: {found['failed']}"


def main(arguments: list[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--registered", type=int, nargs="+", default=list(REGISTERED))
    parser.add_argument("--asked", type=int, nargs="+", default=list(ASKED))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--partition", default="iid", choices=["iid", "shards"])
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 registered")
    parser.add_argument("--out", type=Path, help="where to write the Markdown table")
    parser.add_argument("--one-run", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--split", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one_run:
        registered, asked, rounds, partition = options.one_run
        print(json.dumps(one_run(int(registered), int(asked), int(rounds), partition)))
        return
    if options.split:
        print(json.dumps({"seconds": partition_seconds(int(options.split[0]), options.split[1])}))
        return
    if options.quick:
        options.registered, options.asked, options.rounds = [100, 1_000], [100], 3
    text = table(options)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
