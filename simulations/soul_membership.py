"""Membership inference on a model that remembers: before an erasure and after it.

On docs/soul.md's large table the test has no power: models that generalise say nothing of who
trained them, whatever was forgotten. Here the model is trained to remember: Fashion-MNIST with 320
training images for four clients, 80 passes over each, no augmentation. One client has half of its
labels wrong, which no model can guess and only one that saw them knows; it is to be forgotten, and
test rows with labels as wrong stand beside its rows. The attack is the product's own
(`fedguard.metrics.membership`): loss less the mean loss of reference models, which learnt from test
rows that are no part of the comparison. Resumable.

    python -m simulations.soul_membership --data-dir DIR     # torchvision's layout
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fedguard.clients.federation import draw_malicious
from fedguard.config import parse
from simulations.common import (
    Cell,
    FashionFolder,
    Jobs,
    OnlyPrint,
    RunsFolder,
    machine,
    markdown_table,
    run_cells,
    spread,
    tell,
)
from simulations.soul_page import POWER
from simulations.soul_table import DOCUMENT

BASE: dict[str, Any] = {
    "dataset": {"name": "fashion-mnist", "train_samples": 320, "test_samples": 3000},
    "model": {"name": "mlp", "hidden": [256]},
    "clients": 4,
    "malicious": 0.25,
    "attack": {"name": "label-flip", "mode": "random", "poison_fraction": 0.5},
    "partition": "iid",
    "local_epochs": 8,
    "batch_size": 8,
    "lr": 0.1,
    "server_samples": 40,
    "device": "cpu",
}
METHODS = ("soul", "finetune", "retrain")
BEFORE, RECOVERY = 10, 3
FIRST_SEED = 70

NEAR = 0.05
"""Distance to retraining's AUC within which a method is said to have forgotten."""

Figures = dict[str, list[dict[str, Any]]]


def cells(data_dir: str, seeds: int) -> Iterator[Cell]:
    """Yield every run, the first seed of all methods first."""
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        (wrong,) = draw_malicious(BASE["clients"], BASE["malicious"], seed)
        for method in METHODS:
            recovery = BEFORE if method == "retrain" else RECOVERY
            strategy = {"name": "soul", "method": method, "recovery_rounds": recovery}
            values = {
                **BASE,
                "data_dir": data_dir or None,
                "strategy": strategy,
                "rounds": BEFORE + 1 + recovery,
                "unlearn": [{"client": wrong, "round": BEFORE + 1}],
                "seed": seed,
            }
            yield Cell((method,), values)


def figures(data_dir: str, seeds: int, folder: Path) -> Figures:
    """Return what verification found, per method in order of seed: before and recovered."""
    found: Figures = {"before": []}
    for cell in cells(data_dir, seeds):
        out = folder / parse(cell.values).digest()[:16]
        phases = json.loads((out / "unlearning.json").read_text())["phases"]
        (method,) = cell.key
        found.setdefault(method, []).append(phases["recovered"])
        if method == METHODS[0]:
            found["before"].append(phases["before"])
    return found


def auc(found: Figures, name: str) -> float:
    """Return the mean AUC over seeds."""
    return statistics.fmean(one["membership_auc"] for one in found[name])


def table(found: Figures) -> str:
    """Return a row per state of the model."""
    columns = (
        ("AUC, references", "membership_auc", False),
        ("AUC, loss alone", "membership_auc_by_loss", False),
        ("TPR at 1 % FPR", "membership_tpr", True),
        ("forget accuracy", "forget_accuracy", True),
        ("test accuracy", "test_accuracy", True),
    )
    rows = []
    for name, seeds in found.items():
        row = [name]
        for _, key, percent in columns:
            values = [one[key] for one in seeds]
            wide = statistics.stdev(values) if len(values) > 1 else 0.0
            row.append(
                spread(values) if percent else f"{statistics.fmean(values):.2f} ± {wide:.2f}"
            )
        rows.append(row)
    return markdown_table(("model", *(title for title, _, _ in columns)), rows)


def verdict(found: Figures) -> str:
    """Say whether the test has power, and who has forgotten by it."""
    before, gold = auc(found, "before"), auc(found, "retrain")
    if before < POWER:
        return (
            f"The AUC before the erasure is {before:.2f}, below {POWER}: the test has no power "
            "here and proves nothing of anybody."
        )
    told = [
        f"`{name}` is {auc(found, name) - gold:+.2f} off retraining's"
        f" ({'met' if abs(auc(found, name) - gold) <= NEAR else '**missed**'})"
        for name in METHODS[:-1]
    ]
    return (
        f"The test has power: {before:.2f} before the erasure, {gold:.2f} for a model that never "
        f"saw the rows. By it {', '.join(told)}; the bar is {NEAR}."
    )


def report(found: Figures, seeds: int) -> str:
    """Return the section in Markdown."""
    return f"""## Membership, where there is something to remember

Fashion-MNIST, 320 training and 3,000 test images, {BASE["clients"]} clients, iid, mlp with
256 hidden units, {BEFORE} rounds of {BASE["local_epochs"]} local epochs, batch
{BASE["batch_size"]}, lr {BASE["lr"]}; then the one client that has half of its
labels wrong, at random, is forgotten, {RECOVERY} rounds of recovery (as many as before for
`retrain`). Test rows with labels as wrong are the others. Seeds {FIRST_SEED} to
{FIRST_SEED + seeds - 1}, mean ± standard deviation, rates in percent.

{table(found)}

{verdict(found)}

Made by `python -m simulations.soul_membership --data-dir DIR --seeds {seeds}`; {machine()}."""


def main(
    data_dir: FashionFolder = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per method.")] = 3,
    jobs: Jobs = 1,
    only_print: OnlyPrint = False,
    folder: RunsFolder = Path("runs/soul-membership"),
) -> None:
    """Run what is missing and write the section into docs/soul.md."""
    run_cells(cells(data_dir, seeds), folder, jobs)
    text = report(figures(data_dir, seeds, folder), seeds)
    tell("soul membership", text, DOCUMENT, only_print=only_print)


if __name__ == "__main__":
    typer.run(main)
