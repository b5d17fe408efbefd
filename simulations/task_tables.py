"""Rules under the attacks of three tasks: recommendation, graphs, retrieval.

    python -m simulations.task_tables recommendation
    python -m simulations.task_tables graphs --data cora --data-dir DIR
    python -m simulations.task_tables retrieval --out runs/tables --minutes 10

Every rule runs without an attack, with the task's controls and with its attacks, on every seed. A
rule that the product refuses stands in the table with the product's own words. Each data set has a
block of its own on the task's page. Runs are kept: a table that was cut goes on, and what is there
so far is written, with the number of seeds in each row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.common import ROOT, Cell, machine, markdown_table, run_cell, spread, write_section

Grouped = dict[tuple[str, ...], list[dict[str, Any]]]

RULES = ("fedavg", "trimmed-mean", "multi-krum", "norm-clipping", "geminiguard")
PEACE = "nobody lies"


@dataclass(frozen=True)
class Figure:
    """One column: a figure of the last round.

    Attributes
    ----------
    name : str
        Its name in ``summary.json``.
    title : str
        What the table calls it.
    percent : bool
        Whether it is a share, shown in percent.
    beside : float
        0 for the figure itself; 1 or -1 for how far it is above or below the same rule's figure
        of the same seed where nobody lies.
    """

    name: str
    title: str
    percent: bool = True
    beside: float = 0.0


@dataclass(frozen=True)
class TaskTable:
    """What is run for a task, and which figures are told.

    Attributes
    ----------
    page : str
        Document that has the tables.
    figures : tuple of Figure
        The headline, then what the attack achieved.
    data : mapping
        Of each data set: what its runs share, the seed's part (``"{seed}"``) left open, and the
        rules and arms it has, all where none are named.
    arms : mapping
        Attacks and controls by the words of the table.
    measures : str
        Arm whose attack measures its floor where nobody lies.
    """

    page: str
    figures: tuple[Figure, ...]
    data: Mapping[str, Mapping[str, Any]]
    arms: Mapping[str, Mapping[str, Any]]
    measures: str


_PADHASH = {"name": "padhash", "target_class": 8, "queries": 20}

TABLES: dict[str, TaskTable] = {
    "recommendation": TaskTable(
        page="recommendation.md",
        figures=(
            Figure("hr@10", "HR@10"),
            Figure("er@10", "ER@10"),
            Figure("er@50", "ER@50"),
            Figure("target_rank", "target's rank", percent=False),
        ),
        data={
            "clicks-sample": {"clients": 10, "malicious": 0.1, "rounds": 10},
            "movielens": {"clients": 20, "malicious": 0.05, "rounds": 4},
        },
        arms={
            "`random-profiles` (control)": {"name": "random-profiles"},
            "`bandwagon`": {"name": "bandwagon"},
            "`repeat-target`": {"name": "repeat-target"},
            "`ddsp`": {"name": "ddsp"},
        },
        measures="`random-profiles` (control)",
    ),
    "graphs": TaskTable(
        page="graphs.md",
        figures=(
            Figure("auc", "AUC"),
            Figure("ap", "AP"),
            Figure("auc", "AUC lost", beside=-1.0),
        ),
        data={
            "graph-sample": {"clients": 5, "malicious": 0.4, "rounds": 10},
            "cora": {"clients": 5, "malicious": 0.4, "rounds": 10},
        },
        arms={
            "`random-edges` (control)": {"name": "random-edges"},
            "`dice-edges`": {"name": "dice-edges"},
            "`meta-edges`": {"name": "meta-edges"},
        },
        measures="`random-edges` (control)",
    ),
    "retrieval": TaskTable(
        page="retrieval.md",
        figures=(
            Figure("map", "MAP"),
            Figure("attack_success_rate", "ASR@40"),
            Figure("attack_success_rate", "above the floor", beside=1.0),
            Figure("target_share_at_top", "target's share of the top 40"),
        ),
        data={
            "digits": {"clients": 5, "malicious": 0.2, "rounds": 10, "lr": 0.2},
            "fashion-mnist": {"clients": 5, "malicious": 0.2, "rounds": 4, "lr": 0.1},
        },
        arms={
            "noise of the same size (control)": {**_PADHASH, "crafted": "noise"},
            "`padhash`, a = 0": {**_PADHASH, "weight": 0.0},
            "`padhash`, a = 0.2": _PADHASH,
        },
        measures="`padhash`, a = 0.2",
    ),
}


def part_of(task: str, data: str, seed: int) -> dict[str, Any]:
    """Return the data set's part of a configuration; a graph is split anew for each seed."""
    if task == "retrieval":
        return {"name": "retrieval", "of": data}
    return {"name": data, "split": seed} if task == "graphs" else {"name": data}


def cells(task: str, data: str, seeds: int, data_dir: Path | None) -> Iterator[Cell]:
    """Yield every run, the first seed of all rules and arms first."""
    table = TABLES[task]
    for seed in range(seeds):
        shared: dict[str, Any] = {**table.data[data], "seed": seed}
        shared["dataset"] = part_of(task, data, seed)
        if data_dir is not None:
            shared["data_dir"] = str(data_dir)
        for rule in RULES:
            for arm in (PEACE, *table.arms):
                attack = dict(table.arms[table.measures if arm == PEACE else arm])
                if task == "recommendation":
                    attack["target_seed"] = seed
                values = {**shared, "strategy": rule, "attack": attack}
                yield Cell((rule, arm), {**values, "malicious": 0.0} if arm == PEACE else values)


def refusal(values: Mapping[str, Any]) -> str | None:
    """Return the product's words where it refuses a configuration."""
    from fedguard.config import parse
    from fedguard.errors import ConfigurationError
    from fedguard.runs.simulation import Simulation

    try:
        Simulation(parse(dict(values)))
    except ConfigurationError as error:
        return " ".join(str(error).split())
    return None


def finished(values: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """Return the summary of a run that was made before, or None."""
    from fedguard.campaigns.cells import finished_summary
    from fedguard.config import parse

    digest = parse(dict(values)).digest()
    return finished_summary(folder / digest[:16], digest)


def run_all(
    wanted: Sequence[Cell], folder: Path, minutes: float | None
) -> tuple[Grouped, dict[str, str]]:
    """Run cells in order until the processor time is used up; return runs and refusals.

    After that, runs that are finished still count, and others are left for the next time.
    """
    found: Grouped = {}
    refused: dict[str, str] = {}
    asked: set[str] = set()
    begun = time.process_time()
    left = 0
    for place, cell in enumerate(wanted):
        rule = cell.key[0]
        if rule not in asked:
            asked.add(rule)
            if (told := refusal(cell.values)) is not None:
                refused[rule] = told
        if rule in refused:
            continue
        used = time.process_time() - begun
        if minutes is None or used < 60.0 * minutes:
            print(f"{place + 1}/{len(wanted)}", *cell.key, f"from {used:.0f} s", flush=True)
            summary: dict[str, Any] | None = run_cell(cell.values, folder)
        else:
            summary = finished(cell.values, folder)
        if summary is None:
            left += 1
        else:
            found.setdefault(cell.key, []).append(summary)
    if left:
        print(f"{left} of {len(wanted)} runs are left: the time is used up", flush=True)
    return found, refused


def told_by(figure: Figure, runs: Sequence[Mapping[str, Any]], peace: Sequence[Any]) -> str:
    """Return a figure's mean and deviation over seeds."""
    values = [run["final"][figure.name] for run in runs]
    if figure.beside:
        floor = [run["final"][figure.name] for run in peace]
        values = [figure.beside * (v - f) for v, f in zip(values, floor, strict=False)]
    return spread(values, percent=figure.percent)


def rows(task: str, found: Grouped, refused: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield the table's lines: every rule in turn, or the word refused."""
    table = TABLES[task]
    for rule in RULES:
        if rule in refused:
            yield [f"`{rule}`", "refused", *[""] * (len(table.figures) + 3)]
        for arm in (PEACE, *table.arms):
            runs = found.get((rule, arm), [])
            if not runs:
                continue
            peace = found.get((rule, PEACE), [])
            figures = [
                "-" if figure.beside and arm == PEACE else told_by(figure, runs, peace)
                for figure in table.figures
            ]
            rejected = [
                spread([run["detection"][key] for run in runs])
                for key in ("true_positive_rate", "false_positive_rate")
            ]
            yield [f"`{rule}`", arm, *figures, *rejected, str(len(runs))]


def text(task: str, data: str, found: Grouped, refused: Mapping[str, str]) -> str:
    """Return the block of a data set in Markdown."""
    table = TABLES[task]
    head = ["rule", "arm", *(figure.title for figure in table.figures)]
    head += ["malicious rejected", "honest rejected", "seeds"]
    folder = "" if data == next(iter(table.data)) else f" --data {data} --data-dir DIR"
    shared = ", ".join(f"{name} {value}" for name, value in table.data[data].items())
    most = max((len(runs) for runs in found.values()), default=0)
    lines = [
        markdown_table(head, rows(task, found, refused)),
        f"Percent, but for ranks; mean ± standard deviation over seeds, of the last round. "
        f"`{data}`: {shared}; all else as the product has it.",
        *(f'`{rule}` is refused: "{told}".' for rule, told in refused.items()),
        f"Made by `python -m simulations.task_tables {task}{folder} --seeds {most}`; {machine()}.",
    ]
    return "\n\n".join(lines)


def main(
    task: Annotated[str, typer.Argument(help=", ".join(TABLES))],
    data: Annotated[str | None, typer.Option(help="Data set; else the one without files.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data set's files.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every cell.")] = 3,
    minutes: Annotated[float | None, typer.Option(help="Processor minutes, then stop.")] = None,
    out: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/task-tables"),
) -> None:
    """Run a task's table, go on where it stopped, and write it into the task's page."""
    if task not in TABLES:
        raise typer.BadParameter(f"one of {', '.join(TABLES)}", param_hint="task")
    known = TABLES[task].data
    chosen = next(iter(known)) if data is None else data
    if chosen not in known:
        raise typer.BadParameter(f"one of {', '.join(known)}", param_hint="--data")
    found, refused = run_all(list(cells(task, chosen, seeds, data_dir)), out, minutes)
    page = ROOT / "docs" / TABLES[task].page
    write_section(f"rules {chosen}", text(task, chosen, found, refused), page)


if __name__ == "__main__":
    typer.run(main)
