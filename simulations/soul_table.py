"""The unlearning table: SoUL, its ablations and its rivals on MNIST, Fashion-MNIST and digits.

Ten clients, Dirichlet 0.5, one of them with a backdoor, which is to be forgotten. The rounds
before the request are run once per data set and seed; every method goes on from that checkpoint.

    python -m simulations.soul_table --data-dir DIR      # torchvision's layout
    python -m simulations.soul_table --quick             # digits alone, no files needed
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

import typer

from simulations.common import ROOT, write_section
from simulations.soul_page import Figures, figure, page
from simulations.soul_runs import VARIANTS, outcome, run_variant, tasks, told

DOCUMENT = ROOT / "docs" / "soul.md"


def main(
    data_dir: Annotated[str, typer.Option(help="Folder with the files.")] = "",
    seeds: Annotated[int, typer.Option(help="Seeds per data set.")] = 3,
    quick: Annotated[bool, typer.Option(help="Digits; prints the page.")] = False,
    samples: Annotated[int, typer.Option(help="Training images kept per data set.")] = 12_000,
    only: Annotated[str, typer.Option(help="Run this data set alone.")] = "",
    partial: Annotated[bool, typer.Option(help="Write the page with what there is.")] = False,
    seconds: Annotated[float, typer.Option(help="Start no more runs after so long.")] = 1e9,
    folder: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/soul-table"),
) -> None:
    """Run what is missing of the table, then write it into docs/soul.md."""
    import torch

    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    started = time.monotonic()
    found: dict[str, list[Figures]] = {}
    wanted = list(tasks(quick, data_dir, seeds, samples))
    for task in wanted:
        if only and task.dataset != only:
            continue
        for variant in VARIANTS:
            if time.monotonic() - started > seconds:
                break
            clock = time.monotonic()
            run_variant(task, variant, folder)
            if time.monotonic() - clock > 1:
                print(task.dataset, task.seed, variant, f"{time.monotonic() - clock:.0f} s")
        else:
            found.setdefault(task.dataset, []).append(outcome(task, folder))
    missing = len(wanted) - sum(len(results) for results in found.values())
    if missing and not partial:
        print(f"{missing} of {len(wanted)} columns are missing; run again to go on")
        raise typer.Exit(3)
    text = page(found, {task.dataset: told(task) for task in wanted})
    if quick:
        print(text)
    else:
        figure(found, DOCUMENT.with_name("soul.svg"))
        write_section("soul table", text, DOCUMENT)


if __name__ == "__main__":
    typer.run(main)
