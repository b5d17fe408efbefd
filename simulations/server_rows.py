"""What a server's rows must be like: fewer, other classes missing, wrong labels, balanced.

Sentinel, which reads the labels, geminiguard, which does not, and fltrust, which has nothing else,
on the task of the ablation: Fashion-MNIST, 6,000 training images, 20 clients, a fifth malicious;
accuracy in peace and under three backdoors and a flip, beside plain averaging and the clean floor
of each trigger, on seeds that nothing was chosen on. Resumable.

    python -m simulations.server_rows --data-dir DIR    # torchvision's layout
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from simulations.common import ROOT, Cell, fashion_command, machine, markdown_table, spread
from simulations.geminiguard_ablation import SPLITS, Grouped, in_splits, threats

PAGE = ROOT / "docs" / "sentinel.md"

ROWS: dict[str, dict[str, Any]] = {
    "100, as they come": {},
    "100, balanced": {"server_draw": "balanced"},
    "20": {"server_samples": 20},
    "half of the classes": {"server_classes": 0.5},
    "30 % of the labels wrong": {"server_label_noise": 0.3},
}
RULES = ("geminiguard", "sentinel", "fltrust")
BACKDOORS: dict[str, dict[str, Any]] = {
    "badnets": {"name": "badnets"},
    "blended .2": {"name": "blended", "alpha": 0.2},
    "dba": {"name": "dba"},
}
ATTACKS: dict[str, dict[str, Any]] = {**BACKDOORS, "sign-flip x 2": {"name": "sign-flip"}}
SILENT = {"name": "sign-flip", "scale": 1e-6}
"""Attackers that send next to nothing: what is left where they are turned away, and nobody else."""

WRONG = "30 % of the labels wrong"
FIRST_SEED = 90


def applies(rule: str, rows: str) -> bool:
    """Return whether a rule can tell such rows from others: geminiguard reads no labels."""
    return rows != WRONG or rule != "geminiguard"


def cells(data_dir: str, seeds: int, rounds: int) -> Iterator[Cell]:
    """Yield every run by (rule, rows, split, attack), the first seed of all first."""
    for split, common in in_splits(data_dir, FIRST_SEED, seeds, rounds):
        for name, attack in BACKDOORS.items():
            clean = {**common, "attack": attack, "strategy": "fedavg", "malicious": 0.0}
            yield Cell(("floor", "", split, name), clean)
        silent = {**common, "attack": SILENT, "strategy": "fedavg", "malicious": 0.2}
        yield Cell(("fedavg", "", split, "silent"), silent)
        for name, threat in threats(ATTACKS).items():
            plain = {**common, **threat, "strategy": "fedavg"}
            yield Cell(("fedavg", "", split, name), plain)
            for rows, fields in ROWS.items():
                for rule in (rule for rule in RULES if applies(rule, rows)):
                    values = {**common, **fields, **threat, "strategy": rule}
                    yield Cell((rule, rows, split, name), values)


def _figure(grouped: Grouped, key: tuple[str, ...], name: str) -> list[float | None]:
    return [run["final"][name] for run in grouped[key]]


def row(grouped: Grouped, rule: str, rows: str, split: str) -> list[str]:
    """Return accuracy in peace with the honest rejected, then what each attack leaves."""
    texts = [split, rule, rows or "-"]
    for attack in ("none", *ATTACKS):
        key = (rule, rows, split, attack)
        text = spread(_figure(grouped, key, "accuracy"))
        if attack in BACKDOORS:
            text += f" / {spread(_figure(grouped, key, 'attack_success_rate'))}"
        if attack == "none" and rule != "fedavg":
            text += f" [{spread([r['detection']['false_positive_rate'] for r in grouped[key]])}]"
        texts.append(text)
    return texts


def worst(grouped: Grouped, rule: str, rows: str) -> str:
    """Return in one line how far a rule falls behind plain averaging, and what passes it."""
    behind, success = [], []
    for split in SPLITS:
        for attack in ("none", *ATTACKS):
            means = [
                statistics.fmean(run["final"]["accuracy"] for run in grouped[key])
                for key in ((rule, rows, split, attack), ("fedavg", "", split, attack))
            ]
            behind.append((means[1] - means[0], f"{split}, {attack}"))
            if attack in BACKDOORS:
                found = grouped[rule, rows, split, attack]
                mean = statistics.fmean(run["final"]["attack_success_rate"] for run in found)
                success.append((mean, f"{split}, {attack}"))
    lost, where = max(behind)
    most, passing = max(success)
    return (
        f"- `{rule}`: {100 * lost:.1f} points behind plain averaging at its worst ({where}); "
        f"success at most {100 * most:.1f} % ({passing})"
    )


def report(grouped: Grouped, seeds: int, rounds: int) -> str:
    """Return the section in Markdown."""
    rows = []
    for split in SPLITS:
        floor = [
            "-" if attack not in BACKDOORS else "success "
            + spread(_figure(grouped, ("floor", "", split, attack), "attack_success_rate"))
            for attack in ("none", *ATTACKS)
        ]  # fmt: skip
        silent = spread(_figure(grouped, ("fedavg", "", split, "silent"), "accuracy"))
        blank = ["-"] * len(ATTACKS)
        rows += [[split, "clean floor", "-", *floor], row(grouped, "fedavg", "", split)]
        rows.append([split, "fedavg, the attackers silent", "-", silent, *blank])
        rows += [
            row(grouped, rule, kind, split)
            for rule in RULES
            for kind in ROWS
            if applies(rule, kind)
        ]
    half = "\n".join(worst(grouped, rule, "half of the classes") for rule in RULES)
    header = ("split", "rule", "the server's rows", "no attack [honest rejected]", *ATTACKS)
    return f"""## What the server's rows must be like

The task of [geminiguard's ablation](geminiguard.md), {rounds} rounds, seeds {FIRST_SEED} to
{FIRST_SEED + seeds - 1}, on which nothing was chosen; percent, mean ± standard deviation, after
the stroke success. *Silent* attackers send next to nothing: plain averaging then has what the
honest clients alone know, about as much as a rule can have that turns the attackers away. Under a
backdoor it has more where clients hold few labels. With half of the classes missing:

{half}

{markdown_table(header, rows)}

Made by `python -m simulations.server_rows --data-dir DIR --seeds {seeds}`; {machine()}."""


main = fashion_command("server rows", PAGE, cells, report, Path("runs/server-rows"))


if __name__ == "__main__":
    typer.run(main)
