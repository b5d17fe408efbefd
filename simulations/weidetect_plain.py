"""WeiDetect beside plain averaging under label flips that nobody boosts, on NSL-KDD.

The task of docs/weidetect.md's table with 8 rounds: every flip by 40 % of 20 clients, each as its
training left it, and no attack at all. Resumable.

    python -m simulations.weidetect_plain --data-dir DIR     # DIR/nsl-kdd
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.common import (
    Cell,
    Jobs,
    OnlyPrint,
    Rounds,
    RunsFolder,
    Seeds,
    machine,
    markdown_table,
    run_cells,
    spread,
    tell,
)
from simulations.weidetect_table import BASE, DATASETS, DOCUMENT, Grouped

STRATEGIES = ("fedavg", "weidetect")

TASK = DATASETS["nsl-kdd"]

# Of the targeted flip's other direction the source is what most rows are: normal traffic.
FLIPS: dict[str, dict[str, Any]] = {
    "none": {},
    "static": {"mode": "static"},
    "cyclic": {"mode": "cyclic"},
    "random": {"mode": "random"},
    "dos to normal": {"mode": "targeted", "source_class": 1, "target_class": 0},
    "probe to normal": {"mode": "targeted", "source_class": 2, "target_class": 0},
}
CLASSES = ("normal", "dos", "probe", "r2l", "u2r")
BAR = 0.01
PEACE = 0.05

FIRST_SEED = 20
"""Seeds below it were looked at, by the table or while the defence was made."""


def cells(data_dir: Path | None, seeds: int, rounds: int, share: float) -> Iterator[Cell]:
    """Yield every run, the first seed of all cells first."""
    folder = None if data_dir is None else str(data_dir / "nsl-kdd")
    base = {**BASE, "dataset": TASK["dataset"], "data_dir": folder, "rounds": rounds}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for flip, options in FLIPS.items():
            attack = {"name": "label-flip", **options} if options else "none"
            threat = {"attack": attack, "malicious": share if options else 0.0}
            for strategy in STRATEGIES:
                yield Cell((strategy, flip), {**base, **threat, "strategy": strategy, "seed": seed})


def row(grouped: Grouped, flip: str) -> list[str]:
    """Return one flip's row: macro-F1 of both, the gap, its worst seed, and who was rejected."""
    plain, own = (
        [float(run["final"]["macro_f1"]) for run in grouped[strategy, flip]]
        for strategy in STRATEGIES
    )
    gaps = [mine - theirs for mine, theirs in zip(own, plain, strict=True)]
    rates = [
        spread([run["detection"][rate] for run in grouped["weidetect", flip]])
        for rate in ("true_positive_rate", "false_positive_rate")
    ]
    met = "yes" if statistics.fmean(gaps) >= -BAR else "**no**"
    return [flip, spread(plain), spread(own), f"{100 * min(gaps):+.1f}", met, *rates]


def by_class(grouped: Grouped) -> str:
    """Return the recall of every class under every flip, both rules."""
    rows = []
    for strategy in STRATEGIES:
        for flip in FLIPS:
            found = [run["final"]["per_class_recall"] for run in grouped[strategy, flip]]
            rows.append([strategy, flip, *(spread(list(one)) for one in zip(*found, strict=True))])
    return markdown_table(("rule", "flip", *CLASSES), rows)


def report(grouped: Grouped, base: Mapping[str, Any], seeds: int, share: float) -> str:
    """Return the section in Markdown."""
    header = (
        "flip",
        "fedavg, macro-F1",
        "weidetect, macro-F1",
        "worst seed's gap",
        "mean within 1 point",
        "attackers rejected",
        "honest rejected",
    )
    lost = statistics.fmean(
        run["detection"]["false_positive_rate"] for run in grouped["weidetect", "none"]
    )
    peace = "met" if lost <= PEACE else "**missed**"
    return f"""## Flips that nobody boosts

NSL-KDD as in the table below, {base["rounds"]} rounds, {share:.0%} of {base["clients"]} clients
malicious, updates as training left them; seeds {FIRST_SEED} to {FIRST_SEED + seeds - 1}, percent,
mean ± standard deviation. The bar is 1 point of macro-F1 below plain averaging on the mean of
the seeds; at most {PEACE:.0%} of the honest clients rejected without an attack is
{peace} ({100 * lost:.1f} %).

{markdown_table(header, [row(grouped, flip) for flip in FLIPS])}

Recall of each class:

{by_class(grouped)}

Made by `python -m simulations.weidetect_plain --data-dir DIR --seeds {seeds}`; {machine()}."""


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder with nsl-kdd.")],
    seeds: Seeds = 2,
    rounds: Rounds = 8,
    share: Annotated[float, typer.Option(help="Malicious clients.")] = 0.4,
    jobs: Jobs = 1,
    only_print: OnlyPrint = False,
    folder: RunsFolder = Path("runs/weidetect-plain"),
) -> None:
    """Run what is missing and write the section into docs/weidetect.md."""
    grouped = run_cells(cells(data_dir, seeds, rounds, share), folder, jobs)
    text = report(grouped, {**BASE, "rounds": rounds}, seeds, share)
    tell("weidetect unboosted", text, DOCUMENT, only_print=only_print)


if __name__ == "__main__":
    typer.run(main)
