"""Fake users against five rules on the made-up log of clicks: who is rejected, what it costs.

python -m simulations.recommendation_table
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.common import ROOT, Cell, machine, markdown_table, run_cells, spread, write_section

RULES = ("fedavg", "trimmed-mean", "multi-krum", "norm-clipping")
"""geminiguard serves classification alone and is refused."""

ATTACKS = ("none", "random-profiles", "bandwagon", "repeat-target", "ddsp")
PAGE = ROOT / "docs" / "recommendation.md"


def cells(rounds: int, seeds: int) -> Iterator[Cell]:
    """Yield every run; for ``none``, the floor, nobody is malicious and the target is measured."""
    for rule in RULES:
        for attack in ATTACKS:
            for seed in range(seeds):
                values: dict[str, Any] = {
                    "dataset": "clicks-sample",
                    "strategy": rule,
                    "attack": {"name": "random-profiles" if attack == "none" else attack},
                    "malicious": 0.0 if attack == "none" else 0.1,
                    "rounds": rounds,
                    "seed": seed,
                }
                values["attack"]["target_seed"] = seed
                yield Cell((rule, attack), values)


def main(
    folder: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/promotion"),
    rounds: Annotated[int, typer.Option(help="Rounds of each run.")] = 10,
    seeds: Annotated[int, typer.Option(help="Seeds, with a target each.")] = 3,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
) -> None:
    """Run the table and write it into docs/recommendation.md."""
    found = run_cells(cells(rounds, seeds), folder, jobs)
    rows = []
    for (rule, attack), told in found.items():
        final = [one["final"] for one in told]
        caught = [one["detection"]["true_positive_rate"] for one in told]
        wronged = [one["detection"]["false_positive_rate"] for one in told]
        rows.append(
            [f"`{rule}`", attack]
            + [spread([one[key] for one in final]) for key in ("hr@10", "er@10")]
            + [spread([one["target_rank"] for one in final], percent=False)]
            + [spread(caught), spread(wronged)]
        )
    head = [
        "rule",
        "attack",
        "HR@10",
        "ER@10",
        "target rank",
        "malicious rejected",
        "honest rejected",
    ]
    text = (
        f"{markdown_table(head, rows)}\n\nPercent, but for the rank; {seeds} seeds; "
        f"`clicks-sample`, 10 shops, one of them malicious, {rounds} rounds. "
        "`geminiguard` serves classification alone. Made by "
        f"`python -m simulations.recommendation_table`; {machine()}."
    )
    write_section("table", text, PAGE)


if __name__ == "__main__":
    typer.run(main)
