"""What the newest attacks do to plain averaging, and what the newest defences do about attacks.

Digits, 20 clients, a fifth of them malicious; WaNet, SIG and the federation of 1,000 clients on a
part of Fashion-MNIST. Resumable.

    python -m simulations.newest_table --data-dir DIR   # torchvision's layout
    python -m simulations.newest_table --quick          # digits alone, two rounds, no document
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

Grouped = dict[tuple[str, ...], list[dict[str, Any]]]

PAGE = ROOT / "docs" / "newest.md"
SEEDS = (0, 1, 2)

BASE: dict[str, Any] = {
    "dataset": "digits",
    "model": {"name": "mlp", "hidden": [64]},
    "clients": 20,
    "rounds": 10,
    "local_epochs": 2,
    "batch_size": 16,
    "lr": 0.1,
    "partition": "iid",
    "server_samples": 100,
    "assumed_malicious": 0.25,
    "malicious": 0.2,
}

FASHION: dict[str, Any] = {
    "dataset": {"name": "fashion-mnist", "train_samples": 6000, "test_samples": 1500},
    "rounds": 15,
    "batch_size": 32,
}

ATTACKS: dict[str, dict[str, Any]] = {
    "poisonedfl": {"attack": {"name": "poisonedfl", "check_every": 5}},
    "xfed": {"attack": "xfed"},
    "layer-poisoning": {"attack": {"name": "layer-poisoning", "size": 2, "boost": 4.0}},
    "soda": {"attack": {"name": "soda", "alignment": 1.0, "scale": 2.0}},
    "dpot": {"attack": {"name": "dpot", "pixels": 5}},
    "sybils": {"attack": {"name": "sybils", "scale": 3.0}},
    "copycat": {"attack": "copycat"},
    "joins in round 6": {"attack": "sign-flip", "attack_rounds": {"join": 6}},
    "honest until round 6": {"attack": "sign-flip", "attack_rounds": {"window": [6, 10]}},
}
FACED = ("fedavg", "multi-krum", "flame", "alignins")

DEFENCES: dict[str, Any] = {
    "fedavg": "fedavg",
    "alignins": "alignins",
    "foundationfl": "foundationfl",
    "fedseca": {"name": "fedseca", "kept_share": 0.3},
    "fedrdf": "fedrdf",
    "backdoor-indicator": "backdoor-indicator",
    "hammer-anvil": "hammer-anvil",
}
AGAINST: dict[str, dict[str, Any]] = {
    "none": {"attack": "none", "malicious": 0.0},
    "sign-flip x4": {"attack": {"name": "sign-flip", "scale": 4.0}},
    "alie": {"attack": {"name": "alie", "z": 1.5}},
    "badnets x3": {"attack": {"name": "badnets", "size": 2, "scale": 3.0}},
}

WARPED: dict[str, dict[str, Any]] = {
    f"{name}, {preset}": {"attack": {"name": name, "preset": preset}}
    for name in ("wanet", "sig")
    for preset in ("paper", "strong")
}

MANY: dict[str, Any] = {
    "clients": 1000,
    "fraction": 0.05,
    "rounds": 30,
    "batch_size": 8,
    "attack": {"name": "badnets", "scale": 10.0},
}
FRACTIONS = (0.001, 0.005, 0.01)
FEW_FACED = ("fedavg", "norm-clipping")


def cells(base: Mapping[str, Any], fashion: Mapping[str, Any] | None, seeds: int) -> Iterator[Cell]:
    """Yield every run, the first seed of all cells first; without Fashion-MNIST if None."""
    for seed in SEEDS[:seeds]:
        common = {**base, "seed": seed}
        for strategy in FACED:
            for name, values in {"none": AGAINST["none"], **ATTACKS}.items():
                yield Cell(("attack", name, strategy), {**common, **values, "strategy": strategy})
        for name, strategy in DEFENCES.items():
            for attack, values in AGAINST.items():
                key = ("defence", name, attack)
                yield Cell(key, {**common, **values, "strategy": strategy})
        if fashion is None:
            continue
        images = {**common, **fashion}
        for name, values in WARPED.items():
            yield Cell(("warped", name), {**images, **values, "strategy": "fedavg"})
        for fraction in FRACTIONS:
            for strategy in FEW_FACED:
                values = {**images, **MANY, "malicious": fraction, "strategy": strategy}
                yield Cell(("few", f"{fraction:.1%}", strategy), values)


def told(runs: list[dict[str, Any]]) -> str:
    """Return the last round's accuracy, and a backdoor's success behind a stroke."""
    accuracy = spread([run["final"]["accuracy"] for run in runs])
    success = [run["final"].get("attack_success_rate") for run in runs]
    known = [value for value in success if value is not None]
    return f"{accuracy} / {spread(known)}" if known else accuracy


def report(grouped: Grouped, base: Mapping[str, Any], seeds: int) -> str:
    """Return the tables in Markdown."""
    attacks = [
        [name, *(told(grouped["attack", name, strategy]) for strategy in FACED)]
        for name in ("none", *ATTACKS)
    ]
    defences = [
        [name, *(told(grouped["defence", name, attack]) for attack in AGAINST)] for name in DEFENCES
    ]
    parts = [
        f"""{base["dataset"]}, {base["clients"]} clients, {base["malicious"]:.0%} of them malicious,
mlp with 64 hidden units, {base["rounds"]} rounds of {base["local_epochs"]} local epochs, lr
{base["lr"]}, equal shares of all classes; rules that need a bound assume
{base["assumed_malicious"]:.0%}, rules that need data hold {base["server_samples"]} rows. Accuracy
of the last round in percent; behind the stroke, under a backdoor, its success. Mean ± standard
deviation over {seeds} seeds.""",
        "### The attacks",
        markdown_table(["attack", *FACED], attacks),
        "### The defences",
        markdown_table(["defence", *AGAINST], defences),
    ]
    if ("warped", "wanet, paper") in grouped:
        warped = [[name, told(grouped["warped", name])] for name in WARPED]
        few = [
            [share, *(told(grouped["few", share, strategy]) for strategy in FEW_FACED)]
            for share in (f"{fraction:.1%}" for fraction in FRACTIONS)
        ]
        parts += [
            "### WaNet and SIG against plain averaging",
            "6,000 training images of Fashion-MNIST, 15 rounds; the rest as above.",
            markdown_table(["attack", "fedavg"], warped),
            "### Few attackers among 1,000 clients",
            "The same images, 1,000 clients of 6 rows, 50 asked in each of 30 rounds; BadNets, "
            "updates multiplied by 10.",
            markdown_table(["malicious", *FEW_FACED], few),
        ]
    parts.append(f"Made by `python -m simulations.newest_table`; {machine()}.")
    return "\n\n".join(parts)


def main(
    data_dir: Annotated[str, typer.Option(help="Folder with Fashion-MNIST's files.")] = "",
    seeds: Annotated[int, typer.Option(min=1, max=3, help="Seeds of every cell.")] = 3,
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 2,
    quick: Annotated[bool, typer.Option(help="Digits and 2 rounds; writes no document.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/newest-table"),
) -> None:
    """Run the tables, go on where they stopped, and write docs/newest.md."""
    base = {**BASE, **({"rounds": 2} if quick else {})}
    fashion = None if quick else {**FASHION, "data_dir": data_dir or None}
    seeds = 1 if quick else seeds
    text = report(run_cells(cells(base, fashion, seeds), folder, jobs), base, seeds)
    if quick:
        print(text)
    else:
        write_section("newest tables", text, PAGE)


if __name__ == "__main__":
    typer.run(main)
