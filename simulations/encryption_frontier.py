"""How large may encrypted groups be? Privacy against accuracy under attack.

    python simulations/encryption_frontier.py [--quick] [--protocol] [--out DIR]

Clients are divided into groups of m; the server sees encrypted sums of groups and takes the
coordinate-wise median of their means. A client is hidden from the server and m - 2 colluding
members of its group; with a fraction beta of malicious clients a group is clean with probability
(1 - beta)^m, and the median needs more than half of the groups clean, so
``m <= ln(1/2) / ln(1 - beta)``. Group size 1 is the plain median without encryption.

By default the protocol's cost model stands for the cryptography (same error, nothing encrypted);
``--protocol`` runs the real thing.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from fedguard.config import parse
from fedguard.runs.simulation import Simulation

SIZES = (1, 2, 3, 4, 5, 6, 8, 10)
FRACTIONS = (0.1, 0.2, 0.3)
CLIENTS = 60
COST_MODEL = "fedguard.encryption.xmkckks_cost_model:XmkCkksCostModel"
PROTOCOL = "fedguard.encryption.xmkckks:XmkCkks"
SCALE = 10.0
"""Malicious clients send minus this times their update; one of them turns a group of ten around."""
COLOURS = ("#0072b2", "#d55e00", "#009e73")


@dataclass(frozen=True)
class Point:
    """Accuracy of one group size under one fraction of malicious clients.

    Attributes
    ----------
    fraction : float
        Fraction of malicious clients.
    size : int
        Group size m.
    colluders : int
        How many group members a client is hidden from, together with the server: m - 2, and -1
        without encryption.
    accuracy : tuple of float
        Final accuracy per seed.
    clean : float
        Expected fraction of clean groups.
    """

    fraction: float
    size: int
    colluders: int
    accuracy: tuple[float, ...]
    clean: float


def largest_size(fraction: float) -> float:
    """Return the group size up to which half of the groups are expected to be clean."""
    return math.log(0.5) / math.log(1 - fraction)


def strategy_of(size: int, protocol: bool) -> str | dict[str, Any]:
    """Return the strategy of a group size."""
    if size == 1:
        return "median"
    return {
        "name": PROTOCOL if protocol else COST_MODEL,
        "groups": size,
        "rule": "median",
        "minimum_participants": min(size, 3),
    }


def run(size: int, fraction: float, seed: int, rounds: int, protocol: bool) -> float:
    """Run one federation; return its final accuracy."""
    config = parse(
        {
            "strategy": strategy_of(size, protocol),
            "attack": {"name": "sign-flip", "scale": SCALE} if fraction else "none",
            "malicious": fraction,
            "clients": CLIENTS,
            "partition": "iid",
            "batch_size": 8,
            "rounds": rounds,
            "seed": seed,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        return float(Simulation(config).run(Path(folder))["final"]["accuracy"])


def measure(seeds: int, rounds: int, protocol: bool) -> list[Point]:
    """Measure every group size under every fraction."""
    points = []
    for fraction in (0.0, *FRACTIONS):
        for size in SIZES:
            found = tuple(run(size, fraction, seed, rounds, protocol) for seed in range(seeds))
            point = Point(fraction, size, size - 2, found, (1 - fraction) ** size)
            hidden = "nobody" if size == 1 else f"the server and {point.colluders}"
            print(
                f"malicious {fraction:4.0%}  m {size:2d}  hidden from {hidden:16s}  clean groups "
                f"{point.clean:4.0%}  accuracy {statistics.mean(found):.3f} "
                f"({min(found):.3f} to {max(found):.3f})",
                flush=True,
            )
            points.append(point)
    return points


def figure(points: list[Point], protocol: bool) -> go.Figure:
    """Return the frontier: accuracy over group size, one line per fraction."""
    chart = go.Figure()
    for colour, fraction in zip(("#777777", *COLOURS), (0.0, *FRACTIONS), strict=True):
        chosen = [point for point in points if point.fraction == fraction]
        means = [statistics.mean(point.accuracy) for point in chosen]
        chart.add_scatter(
            x=[point.size for point in chosen],
            y=means,
            error_y={
                "array": [max(p.accuracy) - m for p, m in zip(chosen, means, strict=True)],
                "arrayminus": [m - min(p.accuracy) for p, m in zip(chosen, means, strict=True)],
            },
            mode="lines+markers",
            name=f"{fraction:.0%} malicious",
            line={"color": colour},
        )
        if fraction:
            chart.add_vline(x=largest_size(fraction), line={"color": colour, "dash": "dot"})
    how = "multi-key CKKS" if protocol else "cost model of multi-key CKKS, no cryptography"
    chart.update_layout(
        title=f"Encrypted groups and the median of their means ({how})",
        xaxis_title="group size m; a client is hidden from the server and m - 2 colluders "
        "(dotted: half of the groups clean)",
        yaxis_title=f"final accuracy under sign flipping, scale {SCALE:g}",
        yaxis_range=[0, 1],
        template="plotly_white",
    )
    return chart


def main() -> None:
    """Measure, print and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, five rounds")
    parser.add_argument("--protocol", action="store_true", help="encrypt in earnest")
    parser.add_argument("--out", type=Path, default=Path("runs/encryption-frontier"))
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    seeds, rounds = (1, 5) if options.quick else (3, 15)
    points = measure(seeds, rounds, options.protocol)
    (options.out / "frontier.json").write_text(json.dumps([asdict(p) for p in points], indent=1))
    figure(points, options.protocol).write_html(
        options.out / "frontier.html", include_plotlyjs=True
    )
    print(f"written {options.out / 'frontier.html'} and frontier.json")


if __name__ == "__main__":
    main()
