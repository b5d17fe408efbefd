"""Rules over updates four times as large as the memory they may take, beside copying the file.

    python -m benchmarks.store [--memory 512MB] [--rows 64] [--times 4] [--repeats 3]
                               [--rules median krum ...] [--type float32] [--folder DIR]
                               [--quick] [--out store.md]

Each rule runs in a process of its own: it writes the store, decides over it `--repeats` times, and
in turn with that copies a file of the same size twice, in pieces of 8 MiB. Its peak of resident
memory is told as it is and without what libraries and compiled kernels take, which a small matrix
has loaded before. The parent then decides over the same matrix in memory and compares; the median
and the trimmed mean are compared with NumPy's on a sample of columns as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedguard import registry
from fedguard.config.sizes import bytes_of
from fedguard.update_store import StoredRows, UpdateStore
from fedguard.updates import ClientUpdates

RULES = ("median", "trimmed-mean", "krum", "geometric-median")
BAR_TIME, BAR_ERROR = 2.5, 1e-6
"""Times the seconds of copying the file twice; relative to the largest entry."""

_PIECE = 8 << 20
_SAMPLE = 20_000


def matrix(rows: int, columns: int) -> Iterator[Tensor]:
    """Yield the updates of a round, a fifth of them hostile, each drawn from a stream of its own.

    What rows have in common makes one of them the nearest to all, so that Krum has one answer.
    """
    common = torch.empty(columns).normal_(generator=torch.Generator().manual_seed(99))
    for row in range(rows):
        own = torch.empty(columns).normal_(generator=torch.Generator().manual_seed(row))
        spread = 0.2 + 0.01 * row
        yield -4.0 * (common + own) if row % 5 == 4 else common + spread * own


def decide(name: str, deltas: Tensor | StoredRows) -> Tensor:
    """Return what a rule makes of updates."""
    rule = registry.create("strategy", name)
    found: Tensor = rule.decide(ClientUpdates.from_matrix(deltas)).delta
    return found


def warm_up(name: str, rows: int) -> None:
    """Load libraries and compiled kernels with a matrix that is just large enough for them."""
    decide(name, torch.randn(rows, (1 << 23) // rows + 1))


def one_rule(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one rule here; called in a process of its own."""
    torch.set_num_threads(options.threads)
    memory, rows, columns = bytes_of("memory", options.memory), options.rows, options.columns
    warm_up(options.rule, rows)
    before = forget_peak()
    store = UpdateStore(options.folder, rows, columns, memory // 2, options.type)
    found = store.begin(rows)
    for row, values in enumerate(matrix(rows, columns)):
        store.write(row, values[None])
    times: dict[str, list[float]] = {"rule": [], "copy": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        original = Path(folder) / "original"
        with original.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, rows * columns * store.dtype.itemsize)
        copy(original, Path(folder) / "first")  # so that the source's pages are there
        for _ in range(options.repeats):
            times["copy"].append(
                seconds(lambda: [copy(original, Path(folder) / n) for n in ("first", "second")])
            )
            times["rule"].append(seconds(lambda: decide(options.rule, found)))
    delta = decide(options.rule, found)
    np.save(options.delta, delta.numpy())
    peak = status("VmHWM")
    return {**times, "peak": peak, "over": peak - before}


def copy(source: Path, target: Path) -> None:
    """Copy a file through this process, a piece at a time."""
    room = memoryview(bytearray(_PIECE))
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as written:
        while count := read.readinto(room):
            written.write(room[:count])


def seconds(do: Callable[[], Any]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def status(name: str) -> int:
    """Return a figure of this process's memory in bytes: ``VmRSS``, or its peak, ``VmHWM``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def forget_peak() -> int:
    """Let the peak count from now on; return the resident bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def measured(options: argparse.Namespace, rule: str, columns: int) -> dict[str, Any]:
    """Return a child's figures, with the error of its result, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "delta.npy"
        command = [sys.executable, "-m", "benchmarks.store", "--rule", rule, "--delta", str(path)]
        for name in ("memory", "rows", "repeats", "type", "folder", "threads"):
            command += [f"--{name}", str(getattr(options, name))]
        command += ["--columns", str(columns)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        found["error"] = error_of(rule, options.rows, columns, torch.from_numpy(np.load(path)))
    return found


def error_of(rule: str, rows: int, columns: int, delta: Tensor) -> float:
    """Return the largest difference from the rule in memory, over the largest entry."""
    whole = torch.empty(rows, columns)
    for row, values in enumerate(matrix(rows, columns)):
        whole[row] = values
    wanted = decide(rule, whole)
    scale = float(wanted.abs().max())
    error = float((delta - wanted).abs().max()) / scale
    sample = slice(columns // 3, columns // 3 + _SAMPLE)
    if rule == "median":
        plain = np.median(whole[:, sample].numpy(), axis=0)
        error = max(error, float(np.abs(delta[sample].numpy() - plain).max()) / scale)
    if rule == "trimmed-mean":
        cut = -(-rows // 4)
        ordered = np.sort(whole[:, sample].numpy().astype(np.float64), axis=0)
        plain = ordered[cut : rows - cut].mean(axis=0)
        error = max(error, float(np.abs(delta[sample].numpy() - plain).max()) / scale)
    return error


def row(rule: str, found: dict[str, Any], allowed: int) -> str:
    """Return one line of the table, each bar with met or missed."""
    if "failed" in found:
        return f"| {rule} | failed: {found['failed']} | | | | |"
    ratios = [a / b for a, b in zip(found["rule"], found["copy"], strict=True)]
    ratio = statistics.median(ratios)
    spread = " / ".join(f"{value:.2f}" for value in (min(ratios), ratio, max(ratios)))
    return (
        f"| {rule} | {statistics.median(found['rule']):.2f} | "
        f"{statistics.median(found['copy']):.2f} | {spread} {_met(ratio <= BAR_TIME)} | "
        f"{found['peak'] / 1e6:.0f}, {found['over'] / 1e6:.0f} over the libraries "
        f"{_met(found['over'] <= allowed)} | {found['error']:.1e} "
        f"{_met(found['error'] <= BAR_ERROR)} |"
    )


def _met(holds: bool) -> str:
    return "(met)" if holds else "(missed)"


def table(options: argparse.Namespace) -> str:
    """Measure all rules and return the figures as Markdown."""
    allowed = bytes_of("memory", options.memory)
    columns = options.times * allowed // (4 * options.rows)
    size = options.rows * columns * (4 if options.type == "float32" else 2)
    free = shutil.disk_usage(options.folder).free
    if 4 * size > free:
        told = f"{free / 1e9:.1f} GB of room, {4 * size / 1e9:.1f} are needed"
        sys.exit(f"--folder: {options.folder} has {told}")
    lines = [
        f"{options.rows} x {columns:,} {options.type}, {size / 1e9:.2f} GB in a file, "
        f"{allowed / 1e6:.0f} MB allowed; {options.threads} threads, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}",
        "",
        "| rule | rule, s | copying twice, s | ratio, min / median / max (bar 2.5) | peak, MB "
        f"(bar {allowed / 1e6:.0f} over) | largest error (bar 1e-6) |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for rule in options.rules:
        lines.append(row(rule, measured(options, rule, columns), allowed))
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", default="512MB", help="that the updates may take")
    parser.add_argument("--rows", type=int, default=64, help="clients of a round")
    parser.add_argument("--times", type=int, default=4, help="size of the matrix in that memory")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--type", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--quick", action="store_true", help="32 MB allowed")
    parser.add_argument("--out", type=Path, help="where to write the Markdown table")
    parser.add_argument("--rule", help=argparse.SUPPRESS)
    parser.add_argument("--delta", help=argparse.SUPPRESS)
    parser.add_argument("--columns", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rule:
        print(json.dumps(one_rule(options)))
        return
    if options.quick:
        options.memory, options.rows, options.repeats = "32MB", 16, 1
    text = table(options)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
