"""What each view of geminiguard and sentinel is worth: the same runs with one view switched off.

Attacked cells of Fashion-MNIST, 6,000 training images, 20 clients, a fifth malicious. The latent
view is off with `trigger_margin` 0, sentinel's loss check with `margin` .999, both options of the
rules; no option takes away the weight view, so a subclass here does: nobody is rejected as a copy
or for length. Clipping is aggregation and stays. Resumable.

    python -m simulations.geminiguard_ablation --data-dir DIR    # torchvision's layout
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from fedguard.strategies.geminiguard import GeminiGuard
from fedguard.strategies.sentinel import Sentinel
from fedguard.strategies.toolkit.clustering import Labels
from fedguard.strategies.toolkit.judged_round import JudgedRound
from fedguard.strategies.toolkit.two_views import TwoViews
from simulations.common import (
    ROOT,
    Cell,
    FashionFolder,
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
from simulations.heat_map import unharmed

Grouped = dict[tuple[str, ...], list[dict[str, Any]]]

PAGE = ROOT / "docs" / "geminiguard.md"


class _BlindToWeights(TwoViews):
    """Rejects nobody by distances or lengths."""

    def _by_weights(self, state: JudgedRound, combined: np.ndarray, distance: np.ndarray) -> Labels:
        return np.zeros(len(distance), dtype=np.int64)


class GeminiGuardBlindToWeights(_BlindToWeights, GeminiGuard):
    """Geminiguard whose weight view rejects nobody."""


class SentinelBlindToWeights(_BlindToWeights, Sentinel):
    """Sentinel whose weight view rejects nobody."""


_HERE = "simulations.geminiguard_ablation"

FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "geminiguard": {
        "whole": {"name": "geminiguard"},
        "weight view off": {"name": f"{_HERE}:GeminiGuardBlindToWeights"},
        "latent view off": {"name": "geminiguard", "trigger_margin": 0.0},
    },
    "sentinel": {
        "whole": {"name": "sentinel"},
        "weight view off": {"name": f"{_HERE}:SentinelBlindToWeights"},
        "loss check off": {"name": "sentinel", "margin": 0.999},
        "patch search off": {"name": "sentinel", "trigger_margin": 0.0},
    },
}

DIRICHLET = {"name": "dirichlet", "alpha": 0.5}
TWO_LABELS = {"name": "label-quantity", "labels_per_client": 2}
SPLITS: dict[str, dict[str, Any]] = {"Dirichlet .5": DIRICHLET, "2 labels": TWO_LABELS}

# Attack and split of each cell.
CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "badnets, Dirichlet .5": ("badnets", DIRICHLET),
    "min-max, 2 labels": ({"name": "min-max", "direction": "unit"}, TWO_LABELS),
    "sign-flip x 4, Dirichlet .5": ({"name": "sign-flip", "scale": 4.0}, DIRICHLET),
    "blended .2, Dirichlet .5": ({"name": "blended", "alpha": 0.2}, DIRICHLET),
}
BACKDOORS = ("badnets, Dirichlet .5", "blended .2, Dirichlet .5")

BASE: dict[str, Any] = {
    "dataset": {"name": "fashion-mnist", "train_samples": 6000, "test_samples": 2000},
    "model": {"name": "mlp", "hidden": [64]},
    "clients": 20,
    "malicious": 0.2,
    "rounds": 10,
    "local_epochs": 1,
    "batch_size": 32,
    "lr": 0.1,
    "server_samples": 100,
    "device": "cpu",
}
PEACE: dict[str, Any] = {"attack": "none", "malicious": 0.0}
FIRST_SEED = 40
POINT, SUCCESS = 0.01, 0.1


def in_splits(
    data_dir: str, first_seed: int, seeds: int, rounds: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each split's name and what its runs share, the first seed of all first."""
    for seed in range(first_seed, first_seed + seeds):
        more = {"seed": seed, "rounds": rounds, "data_dir": data_dir or None}
        for split, partition in SPLITS.items():
            yield split, {**BASE, **more, "partition": partition}


def threats(attacks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the fields of peace, as ``none``, and of each attack, by name."""
    return {"none": PEACE, **{name: {"attack": attack} for name, attack in attacks.items()}}


def cells(data_dir: str, rule: str, seeds: int, rounds: int) -> Iterator[Cell]:
    """Yield every run of one rule, plain averaging beside it, the first seed of all first."""
    forms = {**FORMS[rule], "fedavg": {"name": "fedavg"}}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for cell, (attack, partition) in CELLS.items():
            for form, strategy in forms.items():
                values = {"attack": attack, "partition": partition, "strategy": strategy}
                more = {"seed": seed, "rounds": rounds, "data_dir": data_dir or None}
                yield Cell((form, cell), {**BASE, **values, **more})


def _mean(grouped: Grouped, form: str, cell: str, metric: str) -> float:
    return statistics.fmean(run["final"][metric] or 0.0 for run in grouped[form, cell])


def cost(grouped: Grouped, form: str) -> tuple[float, int]:
    """Return what a view off costs: the mean of what is unharmed, and cells with a backdoor back.

    The former in shares of the test set; the latter counts cells in which success rises by 10
    points or more.
    """
    lost = statistics.fmean(
        statistics.fmean(map(unharmed, grouped["whole", cell]))
        - statistics.fmean(map(unharmed, grouped[form, cell]))
        for cell in CELLS
    )
    risen = sum(
        _mean(grouped, form, cell, "attack_success_rate")
        - _mean(grouped, "whole", cell, "attack_success_rate")
        >= SUCCESS
        for cell in BACKDOORS
    )
    return lost, risen


def table(grouped: Grouped, rule: str) -> str:
    """Return a row per form: accuracy per cell, success beside it, and the honest rejected."""
    rows = []
    for form in (*FORMS[rule], "fedavg"):
        row = [form]
        for cell in CELLS:
            runs = grouped[form, cell]
            text = spread([run["final"]["accuracy"] for run in runs])
            if cell in BACKDOORS:
                text += f" / {spread([run['final']['attack_success_rate'] for run in runs])}"
            rate = spread([run["detection"]["false_positive_rate"] for run in runs])
            row.append(f"{text} [{rate}]" if form != "fedavg" else text)
        rows.append(row)
    return markdown_table((rule, *CELLS), rows)


def verdicts(grouped: Grouped, rule: str) -> str:
    """Return for each view what it is worth, and whether that is what the bar asks for."""
    rows = []
    for form in list(FORMS[rule])[1:]:
        lost, risen = cost(grouped, form)
        met = "yes" if lost >= POINT or risen else "**no**"
        rows.append([form, f"{100 * lost:+.1f}", str(risen), met])
    header = ("", "costs, points of the mean", "backdoor cells 10 points up", "earns its place")
    return markdown_table(header, rows)


def report(by_rule: Mapping[str, Grouped], seeds: int, rounds: int) -> str:
    """Return the section in Markdown."""
    parts = [
        f"""## Each view switched off

Fashion-MNIST, 6,000 training and 2,000 test images, mlp with 64 hidden units, {BASE["clients"]}
clients, {BASE["malicious"]:.0%} malicious, {rounds} rounds, {BASE["server_samples"]} rows of the
server as they come; seeds {FIRST_SEED} to {FIRST_SEED + seeds - 1}, mean ± standard deviation in
percent: accuracy, after the stroke success of the backdoor, in brackets the honest clients
rejected. The mean is over the cells, of what the attacker did not get (under a backdoor the smaller
of accuracy and what it did not take)."""
    ]
    for rule, grouped in by_rule.items():
        parts += [table(grouped, rule), verdicts(grouped, rule)]
    parts.append(
        f"Made by `python -m simulations.geminiguard_ablation --data-dir DIR --seeds {seeds}`; "
        f"{machine()}."
    )
    return "\n\n".join(parts)


def main(
    data_dir: FashionFolder = "",
    seeds: Seeds = 3,
    rounds: Rounds = 10,
    rule: Annotated[list[str] | None, typer.Option(help="Only these rules.")] = None,
    jobs: Jobs = 1,
    only_print: OnlyPrint = False,
    folder: RunsFolder = Path("runs/gemini-ablation"),
) -> None:
    """Run what is missing and write the section into docs/geminiguard.md."""
    found = {
        name: run_cells(cells(data_dir, name, seeds, rounds), folder, jobs)
        for name in rule or list(FORMS)
    }
    text = report(found, seeds, rounds)
    tell("geminiguard ablation", text, PAGE, only_print=only_print)


if __name__ == "__main__":
    typer.run(main)
