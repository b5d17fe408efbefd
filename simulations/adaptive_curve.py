"""Attackers that know the rule they face, by how many they are: where each defence breaks.

Fashion-MNIST, 6,000 training images, 20 clients, two splits, on seeds that nothing was chosen on.
Each attacker rehearses the deployed rule, server's rows and memory included. Two of them see every
client's update too, more than a real attacker would. Multi-Krum, which holds no data, stands
beside. Resumable.

    python -m simulations.adaptive_curve --data-dir DIR    # torchvision's layout
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from simulations.common import ROOT, Cell, fashion_command, machine, markdown_table, spread
from simulations.geminiguard_ablation import PEACE, SPLITS, Grouped, in_splits

PAGE = ROOT / "docs" / "adaptive.md"

RULES = ("geminiguard", "sentinel", "multi-krum")
ATTACKERS: dict[str, dict[str, Any]] = {
    "adaptive-gemini": {"attack": "adaptive-gemini"},
    "adaptive-gemini, sees all": {"attack": "adaptive-gemini", "attack_knowledge": "full"},
    "boiling-frog": {"attack": "boiling-frog"},
    "framing, sees all": {"attack": "framing", "attack_knowledge": "full"},
    "anticipate": {"attack": "anticipate"},
}
BACKDOOR = "anticipate"
SHARES = (0.1, 0.2, 0.3)
FIRST_SEED = 140
MOST_LOST, MOST_SUCCESS = 0.05, 0.3
"""The bar: what may be lost against peace, and how often a backdoor may succeed."""


def cells(data_dir: str, seeds: int, rounds: int) -> Iterator[Cell]:
    """Yield every run, by (rule, attacker or none, split, share), the first seed of all first."""
    for split, common in in_splits(data_dir, FIRST_SEED, seeds, rounds):
        for rule in RULES:
            own = {**common, "strategy": rule}
            yield Cell((rule, "none", split, "0"), {**own, **PEACE})
            for attacker, values in ATTACKERS.items():
                for share in SHARES:
                    attacked = {**own, **values, "malicious": share}
                    yield Cell((rule, attacker, split, f"{share:g}"), attacked)


def _figures(runs: list[dict[str, Any]], read: Callable[[Mapping[str, Any]], Any]) -> list[float]:
    return [value for value in map(read, runs) if value is not None]


def _accuracies(runs: list[dict[str, Any]]) -> list[float]:
    return _figures(runs, lambda run: run["final"]["accuracy"])


def _successes(runs: list[dict[str, Any]]) -> list[float]:
    return _figures(runs, lambda run: run["final"]["attack_success_rate"])


def breaks_at(grouped: Grouped, rule: str, attacker: str, split: str) -> str:
    """Return the least share of attackers at which the mean over seeds misses the bar, or "no"."""
    peace = statistics.fmean(_accuracies(grouped[rule, "none", split, "0"]))
    for share in SHARES:
        runs = grouped[rule, attacker, split, f"{share:g}"]
        taken = statistics.fmean(_successes(runs) or [0.0]) if attacker == BACKDOOR else 0.0
        if peace - statistics.fmean(_accuracies(runs)) > MOST_LOST or taken > MOST_SUCCESS:
            return f"{share:.0%}"
    return "no"


def _row(grouped: Grouped, rule: str, attacker: str, split: str) -> list[str]:
    peace = grouped[rule, "none", split, "0"]
    row = [rule, attacker, spread(_accuracies(peace))]
    for share in SHARES:
        runs = grouped[rule, attacker, split, f"{share:g}"]
        text = spread(_accuracies(runs))
        if attacker == BACKDOOR:
            text += f" / {spread(_successes(runs))}"
        blamed = _figures(runs, lambda run: run["detection"]["false_positive_rate"])
        row.append(f"{text} [{spread(blamed)}]")
    return [*row, breaks_at(grouped, rule, attacker, split)]


def report(grouped: Grouped, seeds: int, rounds: int) -> str:
    """Return the section in Markdown: a table per split, and where each rule breaks."""
    header = ("rule", "attacker", "peace", *(f"{share:.0%}" for share in SHARES), "breaks at")
    parts = [
        f"""## Where each rule breaks

The task of [geminiguard's ablation](geminiguard.md), {rounds} rounds, seeds {FIRST_SEED} to
{FIRST_SEED + seeds - 1}, on which nothing was chosen; percent, mean ± standard deviation: accuracy
by the share of the clients that attack, after the stroke a backdoor's success, in brackets the
honest clients rejected. A rule breaks where it loses more than {100 * MOST_LOST:.0f} points against
peace, or a backdoor succeeds in more than {MOST_SUCCESS:.0%}. Multi-Krum assumes a quarter of
attackers: 30 % is beyond what it is made for."""
    ]
    for split in SPLITS:
        rows = [_row(grouped, rule, attacker, split) for rule in RULES for attacker in ATTACKERS]
        parts += [f"### {split}", markdown_table(header, rows)]
    parts.append(
        f"Made by `python -m simulations.adaptive_curve --data-dir DIR --seeds {seeds}`; "
        f"{machine()}."
    )
    return "\n\n".join(parts)


main = fashion_command("adaptive curve", PAGE, cells, report, Path("runs/adaptive-curve"))


if __name__ == "__main__":
    typer.run(main)
