"""How few rows an attacker must poison to pass: the curve for geminiguard and sentinel.

A backdoor that is taught with few poisoned rows moves its client's own model less, which is what
both rules look at; it also reaches the average less. Fashion-MNIST, 6,000 training images, 20
clients, a fifth malicious, two triggers and two splits, on seeds that nothing was chosen on, with
plain averaging and the clean floor beside. Resumable.

    python -m simulations.poison_share --data-dir DIR    # torchvision's layout
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from simulations.common import Cell, fashion_command, machine, markdown_table, spread
from simulations.geminiguard_ablation import BASE, DIRICHLET, PAGE, TWO_LABELS, Grouped

RULES = ("fedavg", "geminiguard", "sentinel")
TRIGGERS: dict[str, dict[str, Any]] = {
    "badnets": {"name": "badnets"},
    "blended .2": {"name": "blended", "alpha": 0.2},
}
SPLITS: dict[str, dict[str, Any]] = {"Dirichlet .5": DIRICHLET, "2 labels": TWO_LABELS}
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)
FIRST_SEED = 70


def cells(data_dir: str, seeds: int, rounds: int) -> Iterator[Cell]:
    """Yield every run, by (rule or floor, trigger, split, share), the first seed of all first."""
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        more = {"seed": seed, "rounds": rounds, "data_dir": data_dir or None}
        for split, partition in SPLITS.items():
            for trigger, attack in TRIGGERS.items():
                common = {**BASE, **more, "partition": partition}
                clean = {**common, "attack": attack, "strategy": "fedavg", "malicious": 0.0}
                yield Cell(("floor", trigger, split, "0"), clean)
                for share in SHARES:
                    taught = {**attack, "poison_fraction": share}
                    for rule in RULES:
                        values = {**common, "attack": taught, "strategy": rule}
                        yield Cell((rule, trigger, split, f"{share:g}"), values)


def report(grouped: Grouped, seeds: int, rounds: int) -> str:
    """Return the section in Markdown: success by share, rule and split, and what is lost."""
    parts = [
        f"""## How few poisoned rows pass

Success in percent by the share of the attackers' rows that is poisoned, the task of the table
above ({rounds} rounds), seeds {FIRST_SEED} to {FIRST_SEED + seeds - 1}, mean ± standard deviation;
in brackets the attackers rejected. The last column is the trigger on a model that nobody
attacked."""
    ]
    rows = []
    for trigger in TRIGGERS:
        for split in SPLITS:
            floor = spread(
                [
                    run["final"]["attack_success_rate"]
                    for run in grouped["floor", trigger, split, "0"]
                ]
            )
            for rule in RULES:
                row = [trigger, split, rule]
                for share in SHARES:
                    runs = grouped[rule, trigger, split, f"{share:g}"]
                    text = spread([run["final"]["attack_success_rate"] for run in runs])
                    caught = spread([run["detection"]["true_positive_rate"] for run in runs])
                    row.append(text if rule == "fedavg" else f"{text} [{caught}]")
                rows.append([*row, floor])
    header = ("trigger", "split", "rule", *(f"{share:.0%}" for share in SHARES), "floor")
    parts.append(markdown_table(header, rows))
    parts.append(
        f"Made by `python -m simulations.poison_share --data-dir DIR --seeds {seeds}`; {machine()}."
    )
    return "\n\n".join(parts)


main = fashion_command("poison share", PAGE, cells, report, Path("runs/poison-share"))


if __name__ == "__main__":
    typer.run(main)
