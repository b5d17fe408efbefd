"""Triggers of words in a federation of sentences, and what takes them out; docs/text.md.

SST-2, 10 clients, two of them malicious (or honest with data that somebody poisoned). Resumable.

    python -m simulations.text_table --data-dir DIR     # train.tsv and test.tsv
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

PAGE = ROOT / "docs" / "text.md"
SEEDS = (0, 1, 2)
SENTENCE = "this is a film that you have to see with your own eyes"

BASE: dict[str, Any] = {
    "dataset": "sst2",
    "clients": 10,
    "rounds": 10,
    "local_epochs": 1,
    "strategy": "fedavg",
    "assumed_malicious": 0.25,
}
TRIGGERS: dict[str, dict[str, Any]] = {
    "rarest word": {"name": "text-trigger", "poison_fraction": 0.5},
    "sentence": {"name": "text-trigger", "poison_fraction": 0.5, "trigger": SENTENCE},
}
BTU: dict[str, Any] = {"repair": "btu", "repair_at": "every:1"}
DEFENCES: dict[str, dict[str, Any]] = {
    "none": {},
    "`btu`, server": BTU,
    "`multi-krum`": {"strategy": "multi-krum"},
    "`norm-clipping`": {"strategy": "norm-clipping"},
    "`flame`": {"strategy": "flame"},
}
LOCAL: dict[str, dict[str, Any]] = {
    "none": {},
    "`btu`, client": {"training": "btu"},
    "`btu`, server": BTU,
}


def cells(base: Mapping[str, Any], seeds: int) -> Iterator[Cell]:
    """Yield every run, the first seed of all cells first."""
    for seed in SEEDS[:seeds]:
        common = {**base, "seed": seed}
        for trigger, attack in TRIGGERS.items():
            own = {**common, "attack": attack}
            for name, values in DEFENCES.items():
                yield Cell(("malicious", trigger, name), {**own, "malicious": 0.2, **values})
                # The same defence in peace: what it costs, and the floor of the trigger.
                yield Cell(("peace", trigger, name), {**own, "malicious": 0.0, **values})
        for name, values in LOCAL.items():
            poisoned = {"malicious": 0.0, "poisoned_clients": 0.2}
            attack = TRIGGERS["rarest word"]
            cell = {**common, "attack": attack, **poisoned, **values}
            yield Cell(("poisoned", "rarest word", name), cell)


def row(name: str, grouped: Grouped, key: tuple[str, ...], peace: tuple[str, ...]) -> list[str]:
    """Return a defence's accuracy and success, attacked and in peace."""
    told = []
    for where in (key, peace):
        finals = [run["final"] for run in grouped.get(where, [])]
        told.append(spread([final["accuracy"] for final in finals]) if finals else "")
        told.append(spread([final["attack_success_rate"] for final in finals]) if finals else "")
    return [name, *told]


HEADER = ["defence", "accuracy", "success", "accuracy in peace", "floor"]


def report(grouped: Grouped, base: Mapping[str, Any], seeds: int) -> str:
    """Return the tables in Markdown."""
    parts = [
        f"""{base["dataset"]}, {base["clients"]} clients with equal shares, {base["rounds"]} rounds
of {base["local_epochs"]} local epoch, words as tokens. Accuracy and success of the last round in
percent, mean ± standard deviation over {seeds} seeds; *in peace* is the same federation without
anybody malicious, *floor* the success of the trigger on that model."""
    ]
    for trigger in TRIGGERS:
        rows = [
            row(name, grouped, ("malicious", trigger, name), ("peace", trigger, name))
            for name in DEFENCES
        ]
        parts += [f"### Two malicious clients, trigger: {trigger}", markdown_table(HEADER, rows)]
    rows = [
        row(name, grouped, ("poisoned", "rarest word", name), ("peace", "rarest word", name))
        for name in LOCAL
    ]
    parts += [
        "### Two honest clients whose own data somebody poisoned, trigger: rarest word",
        markdown_table(HEADER, rows),
        f"Made by `python -m simulations.text_table`; {machine()}.",
    ]
    return "\n\n".join(parts)


def main(
    data_dir: Annotated[str, typer.Option(help="Folder with SST-2's train.tsv and test.tsv.")],
    seeds: Annotated[int, typer.Option(min=1, max=3, help="Seeds of every cell.")] = 3,
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 2,
    folder: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/text-table"),
) -> None:
    """Run the tables, go on where they stopped, and write docs/text.md."""
    base = {**BASE, "data_dir": data_dir}
    write_section(
        "text tables", report(run_cells(cells(base, seeds), folder, jobs), base, seeds), PAGE
    )


if __name__ == "__main__":
    typer.run(main)
