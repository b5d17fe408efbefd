"""What clients gain that clean their graph before they train, with and without edited edges.

    python -m simulations.graph_cleaning --data-dir DIR     # DIR holds cora.npz

Two of five silos have 10 % of their edges edited by `meta-edges`: by themselves (malicious), or by
somebody else, so that they clean them like all others (poisoned). A malicious silo would not clean
its graph; a simulation lets it, so that the first of the two flatters the cleaning. Resumable.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.common import ROOT, Cell, machine, markdown_table, spread, write_section
from simulations.task_tables import Grouped, run_all

PAGE = ROOT / "docs" / "graphs.md"
CLEANINGS = ("none", "jaccard", "svd")
SILOS: dict[str, dict[str, float]] = {
    "nobody's edges are edited": {"malicious": 0.0},
    "two silos edit their own": {"malicious": 0.4},
    "a third party edits those of two": {"malicious": 0.0, "poisoned_clients": 0.4},
}


def cells(data_dir: Path, rounds: int, seeds: int) -> Iterator[Cell]:
    """Yield every run, the first seed of all first; each seed splits the edges anew."""
    for seed in range(seeds):
        for clean in CLEANINGS:
            for silos, shares in SILOS.items():
                values: dict[str, Any] = {
                    "dataset": {"name": "cora", "split": seed, "clean": clean},
                    "data_dir": str(data_dir),
                    "attack": "meta-edges",
                    "rounds": rounds,
                    "seed": seed,
                    **shares,
                }
                yield Cell((silos, clean), values)


def text(found: Grouped, rounds: int) -> str:
    """Return the table: AUC, and what cleaning gains over no cleaning on the same seeds."""
    rows = []
    for (silos, clean), runs in found.items():
        own = [run["final"]["auc"] for run in runs]
        plain = [run["final"]["auc"] for run in found[silos, "none"]]
        gains = [100.0 * (a - b) for a, b in zip(own, plain, strict=False)]
        gain = "-" if clean == "none" else spread(gains, percent=False)
        rows.append([silos, f"`{clean}`", spread(own), gain, str(len(runs))])
    rows.sort(key=lambda row: list(SILOS).index(row[0]))
    head = ["edges", "`dataset.clean`", "AUC", "gained by cleaning", "seeds"]
    return (
        f"{markdown_table(head, rows)}\n\nPercent; Cora, 5 silos, {rounds} rounds, `fedavg`, "
        f"`meta-edges` with its defaults. Made by `python -m simulations.graph_cleaning "
        f"--data-dir DIR`; {machine()}."
    )


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder with cora.npz.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each run.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Splits.")] = 3,
    minutes: Annotated[float | None, typer.Option(help="Processor minutes, then stop.")] = None,
    out: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/task-tables"),
) -> None:
    """Run the table, go on where it stopped, and write it into docs/graphs.md."""
    found, _ = run_all(list(cells(data_dir, rounds, seeds)), out, minutes)
    write_section("cleaning", text(found, rounds), PAGE)


if __name__ == "__main__":
    typer.run(main)
