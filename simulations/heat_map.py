"""Defences against attacks as a heat map: what is left of the model in the worst case.

MNIST, Dirichlet 0.5, one fifth and two fifths of the clients malicious; defences of three leagues
and plain averaging against nine attacks, with the server's rows alone and each trigger's floor.

    python -m simulations.heat_map --data-dir DIR        # torchvision's layout, resumable
    python -m simulations.heat_map --quick               # digits, a few rounds, no files needed
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.common import ROOT, Cell, machine, markdown_table, run_cells, spread, write_section

RULES: dict[str, str] = {
    "fedavg": "none",
    "multi-krum": "none",
    "trimmed-mean": "none",
    "flame": "none",
    "geminiguard": "unlabelled",
    "fltrust": "labelled",
    "sentinel": "labelled",
}
"""Every rule and its league: what of the server's rows it reads."""

STRATEGIES = tuple(RULES)
ALONE = "simulations.controls:ServerAlone"
BACKDOORS = ("badnets", "neurotoxin")

SEEDS = (40, 41, 42, 43, 44)
"""No default was chosen on these."""

# Strengths at which plain averaging has something to lose; backdoors are not boosted.
ATTACKS: dict[str, dict[str, Any]] = {
    "sign-flip": {"name": "sign-flip", "scale": 4.0},
    "ipm": {"name": "ipm"},
    "alie": {"name": "alie", "z": 3.0},
    "min-max": {"name": "min-max", "direction": "unit"},
    "min-max, unlike": {
        "name": "disguised",
        "attack": {"name": "min-max", "direction": "unit"},
        "noise": 0.3,
    },
    "fang-trim": {"name": "fang-trim"},
    "label-flip": {"name": "label-flip"},
    "badnets": {"name": "badnets"},
    "neurotoxin": {"name": "neurotoxin"},
}

FRACTIONS = (0.2, 0.4)

BASE: dict[str, Any] = {
    # A third of the training images and a small network, so that 690 runs end in two hours.
    "dataset": {"name": "mnist", "train_samples": 20_000},
    "model": {"name": "mlp", "hidden": [64]},
    "partition": {"name": "dirichlet", "alpha": 0.5},
    "clients": 50,
    "rounds": 20,
    "local_epochs": 1,
    "batch_size": 32,
    "lr": 0.1,
    "server_samples": 200,
    # The largest bound that a rule may assume with two fifths of liars, the same for all.
    "assumed_malicious": 0.4,
}

QUICK = {"dataset": "digits", "clients": 20, "rounds": 2, "server_samples": 100}

Grouped = dict[tuple[str, ...], list[dict[str, Any]]]


def cells(base: Mapping[str, Any], seeds: int) -> Iterator[Cell]:
    """Yield every run of the map, seed by seed."""
    for seed in SEEDS[:seeds]:
        for strategy in STRATEGIES:
            common = {**base, "strategy": strategy, "seed": seed}
            yield Cell((strategy, "none", "0"), {**common, "attack": "none", "malicious": 0.0})
            for name, attack in ATTACKS.items():
                for malicious in FRACTIONS:
                    values = {**common, "attack": attack, "malicious": malicious}
                    yield Cell((strategy, name, str(malicious)), values)
        peace = {**base, "seed": seed, "malicious": 0.0}
        yield Cell(("alone", "none", "0"), {**peace, "strategy": ALONE, "attack": "none"})
        for name in BACKDOORS:
            attack = ATTACKS[name]
            yield Cell(("floor", name, "0"), {**peace, "strategy": "fedavg", "attack": attack})


def unharmed(run: Mapping[str, Any]) -> float:
    """Return the share of test examples that the attacker did not get.

    Accuracy, or under a backdoor the smaller of accuracy and the share of triggered examples that
    do not end in the target class: one figure for both kinds of harm.
    """
    success = run["final"]["attack_success_rate"]
    accuracy: float = run["final"]["accuracy"]
    return accuracy if success is None else min(accuracy, 1.0 - success)


def mean(runs: Sequence[dict[str, Any]]) -> float:
    """Return the mean over seeds of what is left unharmed."""
    return statistics.fmean(unharmed(run) for run in runs)


def table(grouped: Grouped, malicious: float) -> str:
    """Return one fraction's table: leagues on top, a row per attack, the worst at the bottom."""
    rows = [["*server's rows*", *(f"*{league}*" for league in RULES.values())]]
    rows.append(["none", *(spread([unharmed(r) for r in grouped[s, "none", "0"]]) for s in RULES)])
    for attack in ATTACKS:
        runs = [grouped[s, attack, str(malicious)] for s in STRATEGIES]
        rows.append([attack, *(spread([unharmed(run) for run in group]) for group in runs)])
    worst = [min(mean(grouped[s, a, str(malicious)]) for a in ATTACKS) for s in STRATEGIES]
    rows.append(["**worst mean**", *(f"**{100 * value:.1f}**" for value in worst)])
    lowest = [
        min(unharmed(run) for attack in ATTACKS for run in grouped[s, attack, str(malicious)])
        for s in STRATEGIES
    ]
    rows.append(["worst single run", *(f"{100 * value:.1f}" for value in lowest)])
    return markdown_table(("attack", *STRATEGIES), rows)


def controls(grouped: Grouped) -> str:
    """Return what the server's rows reach alone, and what each trigger does to an honest model."""
    alone = spread([run["final"]["accuracy"] for run in grouped["alone", "none", "0"]])
    floors = ", ".join(
        f"{name} {spread([r['final']['attack_success_rate'] for r in grouped['floor', name, '0']])}"
        for name in BACKDOORS
    )
    return f"""Controls: a server that trains on its labelled rows alone and asks nobody reaches
{alone}. Success of the trigger on a model that nobody attacked (the floor): {floors}."""


def rejections(grouped: Grouped) -> str:
    """Return how many attackers and honest clients each defence turned away, over all attacks."""
    rows = []
    for strategy in STRATEGIES[1:]:
        row = [strategy]
        for malicious in FRACTIONS:
            runs = [run for attack in ATTACKS for run in grouped[strategy, attack, str(malicious)]]
            for rate in ("true_positive_rate", "false_positive_rate"):
                row.append(spread([run["detection"][rate] for run in runs]))
        rows.append(row)
    header = ["strategy"]
    for malicious in FRACTIONS:
        share = f"{malicious:.0%} malicious"
        header += [f"attackers rejected, {share}", f"honest rejected, {share}"]
    return markdown_table(header, rows)


def picture(grouped: Grouped, path: Path) -> None:
    """Draw the map as an SVG that needs nothing else; every cell carries its figure."""
    width, height, left, top = 104, 30, 150, 56
    columns = len(STRATEGIES)
    lines = []
    y = top
    for malicious in FRACTIONS:
        lines.append(_text(8, y - 8, f"{malicious:.0%} malicious", "start", "bold"))
        if malicious == FRACTIONS[0]:
            for column, strategy in enumerate(STRATEGIES):
                lines.append(_text(left + width * (column + 0.5), 20, strategy, "middle", "bold"))
        for attack in ATTACKS:
            lines.append(_text(8, y + 20, attack, "start"))
            values = [mean(grouped[s, attack, str(malicious)]) for s in STRATEGIES]
            for column, value in enumerate(values):
                lines.append(_cell(left + width * column, y, width, height, value))
            y += height
        y += 34
    body = "\n".join(lines)
    total = left + width * columns + 8
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {y}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img" '
        'aria-label="Share of test examples the attacker did not get, in percent">\n'
        f'<rect width="{total}" height="{y}" fill="#ffffff"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


def _text(x: float, y: float, text: str, anchor: str, weight: str = "normal") -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="#1b1f24">{text}</text>'
    )


def _cell(x: float, y: float, width: float, height: float, value: float) -> str:
    """Return one cell, from dark red (nothing left) over white to blue (all left)."""
    red, blue = (178, 24, 43), (67, 147, 195)
    end, share = (red, 1.0 - 2.0 * value) if value < 0.5 else (blue, 2.0 * value - 1.0)
    shade = tuple(round(255 + share * (channel - 255)) for channel in end)
    ink = "#ffffff" if share > 0.7 and value < 0.5 else "#1b1f24"
    return (
        f'<rect x="{x}" y="{y}" width="{width - 2}" height="{height - 2}" rx="3" '
        f'fill="rgb{shade}"/><text x="{x + width / 2}" y="{y + 19}" text-anchor="middle" '
        f'fill="{ink}">{100 * value:.1f}</text>'
    )


def main(
    data_dir: Annotated[str, typer.Option(help="Folder with MNIST's files.")] = "",
    seeds: Annotated[int, typer.Option(min=1, max=len(SEEDS), help="Seeds per cell.")] = len(SEEDS),
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 2,
    quick: Annotated[bool, typer.Option(help="Digits and 2 rounds; writes no document.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/heat-map"),
) -> None:
    """Run the heat map and write it into docs/results.md."""
    base = {**BASE, **(QUICK if quick else {"data_dir": data_dir or None})}
    grouped = run_cells(cells(base, seeds), folder, jobs)
    parts = [f"{share:.0%} malicious:\n\n{table(grouped, share)}" for share in FRACTIONS]
    tables = "\n\n".join(parts)
    if quick:
        print(tables, controls(grouped), rejections(grouped), sep="\n\n")
        return
    picture(grouped, ROOT / "docs" / "heat_map.svg")
    text = f"""## Three leagues, nine attacks, the worst case

MNIST, 20,000 of its 60,000 training images, {base["clients"]} clients, Dirichlet 0.5, mlp with 64
hidden units, {base["rounds"]} rounds, lr {base["lr"]}, batch {base["batch_size"]}, one local epoch.
Every defence assumes at most {base["assumed_malicious"]:.0%} malicious, where its rule asks. The
server's {base["server_samples"]} rows are a random draw; rules that read the same are a league, and
only within a league are figures to be compared. A figure is the share of test examples that the
attacker did not get, in percent, mean ± standard deviation over {seeds} seeds that no default was
chosen on: accuracy, and under a backdoor ({", ".join(BACKDOORS)}; not boosted) the smaller of
accuracy and the share of triggered examples that do not end in the target class. In
`min-max, unlike` the coalition's updates are no copies: each carries noise of its own.

![heat map](heat_map.svg)

{tables}

{controls(grouped)}

Turned away, over all attacks and rounds, in percent:

{rejections(grouped)}

The attacks' strengths were chosen on plain averaging alone; which data the defences' defaults were
chosen on stands in [protocol.md](protocol.md).

Made by `python -m simulations.heat_map`; {machine()}."""
    write_section("heat map", text)


if __name__ == "__main__":
    typer.run(main)
