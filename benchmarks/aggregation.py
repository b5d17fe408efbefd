"""Time and memory of every aggregation rule, beside ByzFL's implementation of the same rule.

    OMP_NUM_THREADS=2 python -m benchmarks.aggregation [--quick] [--out FILE.md]
    OMP_NUM_THREADS=2 python -m benchmarks.aggregation --memory [--out FILE.md]

The matrix is 50 x 1,000,000 float32 (``--quick``: 20 x 500,000). Both sides get the same matrix;
ByzFL takes NumPy arrays or PyTorch tensors and is given whichever it is faster with, which two
runs of each find out. Repetitions alternate between the two sides. A round's Gram matrix is
computed anew in every repetition. ``--memory`` runs every rule in a process of its own and reports
the peak of its resident memory, the matrix included, in units of the matrix.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedguard import registry
from fedguard.strategies.base import RobustStrategy, ServerTools
from fedguard.strategies.monna import MoNNA
from fedguard.strategies.pre_aggregation import make_pre_aggregation
from fedguard.updates import ClientUpdates, ParameterLayout

FULL, QUICK = (50, 1_000_000), (20, 500_000)
REPEATS, SLOW_SECONDS, SLOW_REPEATS = 7, 20.0, 2
BOUND_SHARE = 0.24
"""Share f / n that rules are told; 12 of 50."""

FEW = {"mda": 2, "smea": 1}
"""f of the rules that try subsets: ByzFL lists all C(n, f) of them."""

PRE = ("nnm", "bucketing", "clipping", "arc")
"""Pre-aggregations; each is measured before the trimmed mean."""

OTHER_NAMES = {
    "fedavg": "Average",
    "median": "Median",
    "trimmed-mean": "TrMean",
    "meamed": "Meamed",
    "krum": "Krum",
    "multi-krum": "MultiKrum",
    "geometric-median": "GeometricMedian",
    "centered-clipping": "CenteredClipping",
    "monna": "MoNNA",
    "caf": "CAF",
    "mda": "MDA",
    "smea": "SMEA",
    "nnm": "NNM",
    "bucketing": "Bucketing",
    "clipping": "Clipping",
    "arc": "ARC",
}
WITHOUT_BOUND = {"fedavg", "median", "geometric-median", "centered-clipping"}
ENCRYPTED = {"ckks", "secagg+", "xmkckks", "xmkckks-cost-model"}

Run = Callable[[], Any]


def random_updates(count: int, size: int) -> ClientUpdates:
    """Return updates N(0.01, 0.1^2), three quarters alike and a quarter shifted."""
    stream = torch.Generator().manual_seed(0)
    rows = torch.empty(count, size).normal_(0.01, 0.1, generator=stream)
    rows[: count // 4] += 0.05
    return ClientUpdates.from_matrix(rows)


def our_run(name: str, updates: ClientUpdates, share: float) -> Run:
    """Return a call of our rule on updates of which nothing is known yet."""
    pre, _, rest = name.rpartition("+")
    options: dict[str, Any] = {} if rest in WITHOUT_BOUND else {"assumed_malicious": share}
    if rest == "centered-clipping":
        options = {"clip_radius": 100.0}
    rule: RobustStrategy = registry.create("strategy", rest, **options)
    rule.pre = make_pre_aggregation(pre, assumed_malicious=share) if pre else None
    if isinstance(rule, MoNNA):
        return lambda: rule.around(dataclasses.replace(updates), updates.deltas[0]).delta

    def combine() -> Tensor:
        rule.reset()
        return rule.decide(dataclasses.replace(updates)).delta

    return combine


def their_run(name: str, rows: Any, bound: int) -> Run:
    """Return a call of ByzFL's rule, after its pre-aggregation where there is one."""
    import byzfl

    def part(name: str) -> Any:
        make = getattr(byzfl, OTHER_NAMES[name])
        if name in WITHOUT_BOUND or name == "clipping":
            return make()
        return make(s=2) if name == "bucketing" else make(f=bound)

    pre, _, rest = name.rpartition("+")
    if not pre:
        return lambda: part(rest)(rows)
    return lambda: part(rest)(part(pre)(rows))


def seconds(run: Run) -> float:
    """Return the wall-clock seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@dataclasses.dataclass
class Measured:
    """Seconds of one rule on both sides, repetition by repetition."""

    name: str
    bound: int
    given: str
    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        """ByzFL's median over ours."""
        return statistics.median(self.theirs) / statistics.median(self.ours)

    @property
    def row(self) -> str:
        """The row of the table."""
        pairs = sorted(b / a for a, b in zip(self.ours, self.theirs, strict=True))
        return (
            f"| {self.name} | {self.bound} | {_spread(self.ours)} | {_spread(self.theirs)} "
            f"({self.given}) | {len(self.ours)} | {self.ratio:.1f} ({pairs[0]:.1f} to "
            f"{pairs[-1]:.1f}) |"
        )


def _spread(times: list[float]) -> str:
    low, middle, high = min(times), statistics.median(times), max(times)
    return " / ".join(f"{1000 * value:.3g}" for value in (low, middle, high))


def compare(name: str, updates: ClientUpdates) -> Measured:
    """Measure one rule on both sides, alternating."""
    count = len(updates)
    bound = min(FEW.get(name, count), int(BOUND_SHARE * count))
    if name.startswith("bucketing+"):  # the rule sees half as many rows
        bound, count = bound // 2, count // 2
    ours = our_run(name, updates, bound / count)
    writes = name.startswith(("clipping+", "arc+"))  # ByzFL's write over what they are given
    forms = {"PyTorch": updates.deltas, "NumPy": updates.deltas.numpy()}

    def theirs(form: str) -> float:
        rows = forms[form].copy() if form == "NumPy" and writes else forms[form]
        rows = rows.clone() if form == "PyTorch" and writes else rows
        return seconds(their_run(name, rows, bound))

    ours()
    first = {form: min(theirs(form), theirs(form)) for form in forms}
    given = min(first, key=first.__getitem__)
    repeats = SLOW_REPEATS if first[given] > SLOW_SECONDS else REPEATS
    pairs = [(seconds(ours), theirs(given)) for _ in range(repeats)]
    return Measured(name, bound, given, [a for a, _ in pairs], [b for _, b in pairs])


def mean_ratios(updates: ClientUpdates) -> list[str]:
    """Measure median and trimmed mean beside the plain mean of the same tensor."""
    rows = updates.deltas
    runs = {name: our_run(name, updates, BOUND_SHARE) for name in ("median", "trimmed-mean")}
    times: dict[str, list[float]] = {name: [] for name in ("mean", *runs)}
    for _ in range(2 * REPEATS):
        times["mean"].append(seconds(lambda: rows.mean(0)))
        for name, run in runs.items():
            times[name].append(seconds(run))
    plain = statistics.median(times["mean"])
    lines = [f"`deltas.mean(0)`: {_spread(times['mean'])} ms (min / median / max)."]
    for name in runs:
        ratio = statistics.median(times[name]) / plain
        lines.append(f"{name}: {_spread(times[name])} ms, {ratio:.2f} times the plain mean.")
    return lines


def machine() -> str:
    """Return where and with what was measured."""
    packages = ("torch", "numpy", "numba", "byzfl")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    processor = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return (
        f"{processor}, {os.cpu_count()} processors, {torch.get_num_threads()} threads; "
        f"Python {platform.python_version()}, {versions}; {datetime.date.today().isoformat()}."
    )


def time_table(shape: tuple[int, int]) -> str:
    """Return the comparison as Markdown."""
    updates = random_updates(*shape)
    found = []
    rules = [name for name in OTHER_NAMES if name not in PRE]
    for name in [*rules, *(f"{pre}+trimmed-mean" for pre in PRE)]:
        found.append(compare(name, updates))
        print(found[-1].row, flush=True)
    head = "| rule | f | fedguard, ms | ByzFL, ms | repeats | speed-up (of single pairs) |"
    alone = [one for one in found if "+" not in one.name]
    lines = [
        machine(),
        "",
        f"{shape[0]} x {shape[1]:,} float32. Milliseconds are min / median / max.",
        "",
        head,
        "|---|---|---|---|---|---|",
        *(one.row for one in found),
        "",
        f"Geometric mean of the speed-ups: {_mean(alone):.1f} over the rules, {_mean(found):.1f} "
        f"with the pre-aggregations; lowest: {min(found, key=lambda one: one.ratio).name}, "
        f"{min(one.ratio for one in found):.1f}.",
        "",
        *(line + "  " for line in mean_ratios(updates)),
    ]
    return "\n".join(lines) + "\n"


def _mean(found: list[Measured]) -> float:
    return statistics.geometric_mean(one.ratio for one in found)


class _Network(nn.Sequential):
    """A perceptron of about `size` parameters on 784 inputs."""

    latent_layer = "1"

    def __init__(self, size: int) -> None:
        width = max(8, (size - 10) // (784 + 1 + 10))
        super().__init__(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))


def memory_names() -> list[str]:
    """Return the rules that are measured: all but the encrypted, and pre-aggregations before some.

    A name with a plus is a rule after a pre-aggregation.
    """
    own = [name for name in registry.names("strategy") if name not in ENCRYPTED]
    pairs = [f"{pre}+{rule}" for pre in PRE for rule in ("median", "krum", "geometric-median")]
    return [*own, *pairs]


def peak_of(name: str, shape: tuple[int, int]) -> float:
    """Run a rule for three rounds and return its peak in units of the matrix.

    What the libraries take is left out by running the rule on a small matrix first.
    """
    _rounds(name, shape[0], 9 * 10**6 // shape[0])
    return _rounds(name, *shape)


def _rounds(name: str, count: int, size: int) -> float:
    model = _Network(size)
    layout = ParameterLayout.from_module(model)
    stream = torch.Generator().manual_seed(1)
    rows = torch.empty(count, layout.size).normal_(0.001, 0.01, generator=stream)
    start = layout.flatten(model.state_dict())
    claims = torch.ones(count, dtype=torch.float64)
    # Not by `from_matrix`: the rule's own peak is wanted, not that of checking the rows.
    updates = ClientUpdates(rows, claims, tuple(range(count)), start, layout)
    pre, _, rest = name.rpartition("+")
    rule: RobustStrategy = registry.create("strategy", rest)
    rule.pre = make_pre_aggregation(pre) if pre else None
    x, y = torch.rand(64, 784, generator=stream), torch.arange(64) % 10
    rule.tools = ServerTools.of(model, x, y)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for at in (1, 2, 3):
        rule.decide(dataclasses.replace(updates, server_round=at))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1.0 + 1024 * (after - before) / (rows.numel() * rows.element_size())


def memory_table(shape: tuple[int, int]) -> str:
    """Return the peaks of all rules as Markdown, each from a process of its own."""
    lines = [
        machine(),
        "",
        f"Peak of resident memory, the {shape[0]} x {shape[1]:,} float32 matrix included, in units "
        "of the matrix, over three rounds.",
        "",
        "| rule | peak |",
        "|---|---|",
    ]
    for name in memory_names():
        command = [sys.executable, "-m", "benchmarks.aggregation", "--peak-of", name]
        command += ["--shape", *map(str, shape)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        reason = done.stderr.strip().splitlines()[-1:] or ["no output"]
        peak = f"{float(done.stdout):.2f}" if done.returncode == 0 else f"failed: {reason[0]}"
        lines.append(f"| {name} | {peak} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small matrix")
    parser.add_argument("--memory", action="store_true", help="peaks instead of times")
    parser.add_argument("--out", type=Path, help="where to write the Markdown table")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = QUICK if arguments.quick else FULL
    if arguments.peak_of:
        print(peak_of(arguments.peak_of, tuple(arguments.shape)))
        return
    text = memory_table(shape) if arguments.memory else time_table(shape)
    print("\n" + text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
