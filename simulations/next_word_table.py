"""Next-word prediction on Shakespeare: 20 speakers, two attacks, five rules, in perplexity.

python -m simulations.next_word_table --data-dir DIR     # DIR holds input.txt
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.common import ROOT, Cell, machine, markdown_table, run_cells, spread, write_section

STRATEGIES = ("fedavg", "trimmed-mean", "median", "multi-krum", "norm-clipping")

ATTACKS: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "sign-flip": {"name": "sign-flip", "scale": 4.0},
    "label-flip": {"name": "label-flip", "mode": "random", "scale": 4.0},
}

PAGE = ROOT / "docs" / "next_word.md"


def cells(data_dir: Path, rounds: int, seeds: int) -> Iterator[Cell]:
    """Yield every run of the table."""
    for strategy in STRATEGIES:
        for attack, part in ATTACKS.items():
            for seed in range(seeds):
                yield Cell(
                    (strategy, attack),
                    {
                        "strategy": strategy,
                        "attack": part,
                        "dataset": "shakespeare",
                        "data_dir": str(data_dir),
                        "rounds": rounds,
                        "seed": seed,
                    },
                )


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder with input.txt.")],
    folder: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/next-word"),
    rounds: Annotated[int, typer.Option(help="Rounds of each run.")] = 10,
    seeds: Annotated[int, typer.Option(help="Seeds of each cell.")] = 3,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 2,
) -> None:
    """Run the table and write it into docs/next_word.md."""
    found = run_cells(cells(data_dir.resolve(), rounds, seeds), folder, jobs)
    rows = [
        [f"`{strategy}`"]
        + [
            spread(
                [summary["final"]["perplexity"] for summary in found[strategy, attack]],
                percent=False,
            )
            for attack in ATTACKS
        ]
        for strategy in STRATEGIES
    ]
    start = {s["seed"]: s for s in found["fedavg", "none"]}
    text = "\n".join(
        [
            markdown_table(["rule", *ATTACKS], rows),
            "",
            f"Perplexity on the test words after {rounds} rounds, mean and standard deviation over "
            f"{len(start)} seeds; lower is better; 20 speakers, 4 of them malicious. Made by "
            f"`python -m simulations.next_word_table --data-dir DIR`; {machine()}.",
        ]
    )
    write_section("table", text, PAGE)


if __name__ == "__main__":
    typer.run(main)
