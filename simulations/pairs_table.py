"""Every attack against every defence, once: what a run ends at, and how long it takes.

Digits, 8 clients, 2 of them malicious, 3 rounds: enough to see that a pair runs and means
something, far too little to rank. Resumable; some 1,700 runs, a third of a second each.

    python -m simulations.pairs_table
    python -m simulations.pairs_table --only krum --only badnets
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fedguard import registry
from fedguard.config import parse
from fedguard.errors import ConfigurationError, RunError
from fedguard.traits import traits_of
from simulations.common import ROOT, machine, markdown_table, run_cell, write_section

PAGE = ROOT / "docs" / "pairs.md"
BASE: dict[str, Any] = {
    "dataset": "digits",
    "model": "mlp",
    "clients": 8,
    "malicious": 0.25,
    "assumed_malicious": 0.25,
    "rounds": 3,
    "local_epochs": 1,
    "batch_size": 16,
    "lr": 0.1,
    "server_samples": 60,
    "partition": "iid",
    "seed": 0,
}
SLIGHT: dict[str, dict[str, Any]] = {"a3fl": {"steps": 3, "size": 2}}
"""Arguments of attacks that would take minutes, or that do not fit pictures of 8 x 8."""

NETWORK = {"bnguard": "conv-bn"}


def parts(kind: str) -> list[str]:
    """Return the parts of a kind that meet in a classification among clients, by name."""
    found = {name: registry.find(kind, name) for name in registry.names(kind)}
    return [
        name
        for name, part in found.items()
        if traits_of(part).world == "horizontal"
        and traits_of(part).serves("classification")
        and "classification" in (getattr(part, "tasks", None) or ("classification",))
    ]


def pairs(only: list[str]) -> Iterator[tuple[str, str]]:
    """Yield every attack with every strategy, or those that `only` names."""
    for attack in parts("attack"):
        for strategy in parts("strategy"):
            if not only or {attack, strategy} & set(only):
                yield attack, strategy


def meet(attack: str, strategy: str, folder: Path) -> dict[str, Any]:
    """Run one pair; return how it ended: its figures, or why it was refused or stopped."""
    values = {
        **BASE,
        "attack": {"name": attack, **SLIGHT.get(attack, {})},
        "strategy": strategy,
        "model": NETWORK.get(strategy, BASE["model"]),
    }
    try:
        parse(values)
        summary = run_cell(values, folder)
    except (ConfigurationError, RunError) as error:
        # What a run says stands behind its folder's name.
        return {
            "refused": " ".join(str(error).split()).removeprefix(f"{folder}").split(": ", 1)[-1]
        }
    final = summary["final"]
    return {
        "accuracy": final["accuracy"],
        "success": final.get("attack_success_rate"),
        "seconds": summary["seconds"],
    }


def told(found: dict[str, Any]) -> str:
    """Return a cell: accuracy, behind a stroke a backdoor's success; a dash where refused."""
    if "refused" in found:
        return "–"
    accuracy = f"{100 * found['accuracy']:.0f}"
    return accuracy if found["success"] is None else f"{accuracy}/{100 * found['success']:.0f}"


def report(found: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Return the matrix, the slowest pairs and the refusals in Markdown."""
    attacks, strategies = (sorted({key[at] for key in found}) for at in (0, 1))
    table = [[s, *(told(found[a, s]) for a in attacks)] for s in strategies]
    ran = {key: one for key, one in found.items() if "refused" not in one}
    refused: dict[str, list[tuple[str, str]]] = {}
    for key, one in found.items():
        if "refused" in one:
            refused.setdefault(one["refused"], []).append(key)
    slow = sorted(ran.items(), key=lambda item: -item[1]["seconds"])[:10]
    whys = [[why, str(len(keys)), f"{keys[0][1]}, {keys[0][0]}"] for why, keys in refused.items()]
    return "\n\n".join(
        (
            f"{len(found):,} pairs, {len(ran):,} ran to the end, {len(found) - len(ran):,} were "
            f"refused in one line; {sum(one['seconds'] for one in ran.values()):,.0f} s in all. "
            "Accuracy after three rounds in percent; behind a stroke a backdoor's success.",
            markdown_table(["", *attacks], table),
            "Refused:",
            markdown_table(["why", "pairs", "for instance"], whys),
            "The slowest:",
            markdown_table(
                ["strategy", "attack", "seconds"],
                [[key[1], key[0], f"{one['seconds']:.1f}"] for key, one in slow],
            ),
            f"Made by `python -m simulations.pairs_table`; {machine()}.",
        )
    )


def main(
    only: Annotated[list[str] | None, typer.Option(help="Parts to meet; all if left out.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/pairs"),
) -> None:
    """Run every pair, go on where it stopped, and write docs/pairs.md."""
    found = {}
    for attack, strategy in pairs(only or []):
        found[attack, strategy] = meet(attack, strategy, folder / strategy / attack)
    text = report(found)
    if only:
        print(text)
    else:
        write_section("pairs", text, PAGE)


if __name__ == "__main__":
    typer.run(main)
