"""Edited graphs against the rules on the made-up graph: who is rejected, what it costs.

python -m simulations.graph_table
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.common import ROOT, Cell, machine, markdown_table, run_cells, spread, write_section

RULES = ("fedavg", "trimmed-mean", "multi-krum", "norm-clipping")
"""geminiguard serves classification alone and is refused."""

ATTACKS = ("none", "random-edges", "dice-edges", "meta-edges")
PAGE = ROOT / "docs" / "graphs.md"


def cells(rounds: int, seeds: int) -> Iterator[Cell]:
    """Yield every run."""
    for rule in RULES:
        for attack in ATTACKS:
            for seed in range(seeds):
                values: dict[str, Any] = {
                    "dataset": "graph-sample",
                    "strategy": rule,
                    "attack": {"name": attack},
                    "malicious": 0.0 if attack == "none" else 0.4,
                    "rounds": rounds,
                    "seed": seed,
                }
                yield Cell((rule, attack), values)


def main(
    folder: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/graph"),
    rounds: Annotated[int, typer.Option(help="Rounds of each run.")] = 10,
    seeds: Annotated[int, typer.Option(help="Seeds.")] = 3,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
) -> None:
    """Run the table and write it into docs/graphs.md."""
    found = run_cells(cells(rounds, seeds), folder, jobs)
    rows = []
    for (rule, attack), told in found.items():
        final = [one["final"] for one in told]
        caught = [one["detection"]["true_positive_rate"] for one in told]
        wronged = [one["detection"]["false_positive_rate"] for one in told]
        rows.append(
            [f"`{rule}`", attack]
            + [spread([one[key] for one in final]) for key in ("auc", "ap")]
            + [spread(caught), spread(wronged)]
        )
    head = ["rule", "attack", "AUC", "AP", "malicious rejected", "honest rejected"]
    text = (
        f"{markdown_table(head, rows)}\n\nPercent; {seeds} seeds; `graph-sample`, "
        f"5 silos, two of them malicious, {rounds} rounds. `geminiguard` serves classification "
        f"alone. Made by `python -m simulations.graph_table`; {machine()}."
    )
    write_section("table", text, PAGE)


if __name__ == "__main__":
    typer.run(main)
