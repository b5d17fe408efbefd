"""Training rules where honest clients' own data are poisoned by a third party.

Fashion-MNIST, ten clients, half of the rows of three of them with a patch or a blended picture.
What the trigger does to a model that was never attacked is the floor; plain SGD is the control.

    python -m simulations.poisoned_data_table --data-dir DIR     # torchvision's files
    python -m simulations.poisoned_data_table --data-dir DIR --seeds 1 --rules sgd,t-core

Runs are kept: stop the command and start it again, and it goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.common import (
    ROOT,
    Cell,
    machine,
    markdown_table,
    run_cells,
    spread,
    write_section,
)

DOCUMENT = ROOT / "docs" / "repairs.md"

BASE: dict[str, Any] = {
    "dataset": {"name": "fashion-mnist", "train_samples": 3000, "test_samples": 1000},
    "model": {"name": "conv-bn", "channels": (8, 16, 16, 32, 32)},
    "clients": 10,
    "malicious": 0.0,
    "poisoned_clients": 0.3,
    "partition": "iid",
    "strategy": "fedavg",
    "server_samples": 400,
    "rounds": 10,
    "local_epochs": 2,
    "batch_size": 32,
    "lr": 0.05,
    "momentum": 0.9,
    "device": "cpu",
}
ATTACKS: dict[str, dict[str, Any]] = {
    "badnets": {"name": "badnets", "size": 4, "poison_fraction": 0.5},
    "blended": {"name": "blended", "poison_fraction": 0.5},
}
RULES: dict[str, Any] = {
    "sgd": "sgd",
    "abl": "abl",
    "fed-nad": "fed-nad",
    "t-core": "t-core",
    "t-core, cross-class": {"name": "t-core", "sift": "cross-class"},
    "t-core, channels": {"name": "t-core", "mask": 0.3},
}


def cells(seeds: int, rules: list[str], data_dir: Path | None) -> list[Cell]:
    """Return every run: each rule without an attack and under each attack."""
    base = {**BASE, **({"data_dir": str(data_dir)} if data_dir else {})}
    found = []
    for seed in range(seeds):
        for rule in rules:
            own = {**base, "training": RULES[rule], "seed": seed}
            for attack, part in ATTACKS.items():
                found.append(Cell((rule, attack), {**own, "attack": part}))
                # Nobody poisoned: what the trigger does to the model is measured all the same.
                found.append(
                    Cell((rule, f"no {attack}"), {**own, "attack": part, "poisoned_clients": 0.0})
                )
    return found


def table(results: dict[tuple[str, ...], list[dict[str, Any]]], rules: list[str]) -> str:
    """Return one row for each attack and rule; percent, mean ± deviation over seeds."""
    header = ("attack", "training", "accuracy", "success", "in peace", "floor")
    rows = []
    for attack in ATTACKS:
        for rule in rules:
            hit, peace = results[rule, attack], results[rule, f"no {attack}"]
            figures = [
                spread([one["final"][figure] for one in runs])
                for runs in (hit, peace)
                for figure in ("accuracy", "attack_success_rate")
            ]
            rows.append([attack, rule, *figures])
    return markdown_table(header, rows)


def main(
    data_dir: Annotated[Path | None, typer.Option(help="Folder in torchvision's layout.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    rules: Annotated[str, typer.Option(help="Separated by semicolons.")] = ";".join(RULES),
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 2,
    out: Annotated[Path, typer.Option(help="Run directories.")] = Path("poisoned-data-runs"),
    document: Annotated[Path, typer.Option(help="Page that gets the table.")] = DOCUMENT,
) -> None:
    """Run all cells and write the table into the page; goes on where it was stopped."""
    chosen = rules.split(";")
    results = run_cells(cells(seeds, chosen, data_dir), out, jobs)
    told = "one seed (0)" if seeds == 1 else f"seeds 0 to {seeds - 1}"
    text = f"{table(results, chosen)}\n\n{machine()}; {told}."
    write_section("poisoned data", text, document)


if __name__ == "__main__":
    typer.run(main)
