"""PADHASH on digits as retrieval: above the floor of nobody's attack, and under five rules.

python -m simulations.retrieval_table
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.common import ROOT, Cell, machine, markdown_table, run_cells, write_section

PAGE = ROOT / "docs" / "retrieval.md"

ARMS: dict[str, tuple[float, dict[str, Any]]] = {
    "nobody lies (floor)": (0.0, {}),
    "random changes of the same size": (0.2, {"crafted": "noise"}),
    "cosine alone (a = 0)": (0.2, {"weight": 0.0}),
    "cosine and length (a = 0.2)": (0.2, {}),
}
"""Share of malicious clients, and what differs from the attack's defaults."""

RULES = ("trimmed-mean", "multi-krum", "norm-clipping")
FIGURES = ("map", "attack_success_rate", "target_share_at_top")


def cells(seeds: int, target: int) -> Iterator[Cell]:
    """Yield every run: the arms under fedavg, then the attack under other rules."""
    common = {"dataset": "retrieval", "lr": 0.2, "rounds": 10}
    for arm, (malicious, arguments) in ARMS.items():
        attack = {"name": "padhash", "target_class": target, "queries": 20, **arguments}
        for seed in range(seeds):
            given = {**common, "malicious": malicious, "attack": attack, "seed": seed}
            yield Cell(("fedavg", arm), given)
    attack = {"name": "padhash", "target_class": target, "queries": 20}
    for rule in RULES:
        for seed in range(seeds):
            given = {**common, "malicious": 0.2, "attack": attack, "seed": seed}
            yield Cell((rule, "cosine and length (a = 0.2)"), {**given, "strategy": rule})


def row(key: tuple[str, ...], runs: list[dict[str, Any]]) -> list[str]:
    """Return one line of the table."""

    def spread(values: list[float]) -> str:
        mean = statistics.fmean(values)
        return f"{mean:.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{mean:.3f}"

    rates = [
        "-"
        if any(run["detection"][name] is None for run in runs)
        else f"{statistics.fmean(run['detection'][name] for run in runs):.2f}"
        for name in ("true_positive_rate", "false_positive_rate")
    ]
    return [
        f"`{key[0]}`",
        key[1],
        *(spread([run["final"][name] for run in runs]) for name in FIGURES),
        *rates,
    ]


def table(found: Mapping[tuple[str, ...], list[dict[str, Any]]]) -> str:
    """Return the table of all runs."""
    header = [
        *("rule", "arm", "MAP", "ASR@40", "target's share of the top 40"),
        *("malicious rejected", "honest rejected"),
    ]
    return markdown_table(header, [row(key, runs) for key, runs in found.items()])


def main(
    folder: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/retrieval"),
    seeds: Annotated[int, typer.Option(help="Seeds of each arm.")] = 3,
    target: Annotated[int, typer.Option(help="Target class.")] = 8,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
) -> None:
    """Run the table and write it into docs/retrieval.md."""
    found = run_cells(cells(seeds, target), folder, jobs)
    foot = (
        f"{seeds} seeds; digits, target {target}, 20 queries, 5 clients of whom 1 lies, eps 0.25, "
        f"10 rounds. Made by `python -m simulations.retrieval_table --seeds {seeds}`; {machine()}."
    )
    write_section("table", f"{table(found)}\n\n{foot}", PAGE)


if __name__ == "__main__":
    typer.run(main)
