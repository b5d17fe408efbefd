"""What the published tables share: running many cells, resumably, and writing sections."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated, Any

import plotly.graph_objects as go
import typer
from plotly.offline import get_plotlyjs
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results.md"

# Options that tables share.
FashionFolder = Annotated[str, typer.Option(help="Folder with Fashion-MNIST's files.")]
Seeds = Annotated[int, typer.Option(min=1, help="Seeds per cell.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds.")]
Jobs = Annotated[int, typer.Option(help="Runs at a time, one thread each.")]
OnlyPrint = Annotated[bool, typer.Option(help="Print the section, write nothing.")]
RunsFolder = Annotated[Path, typer.Option(help="Where the runs go.")]


@dataclass(frozen=True)
class Cell:
    """One run of a table.

    Attributes
    ----------
    key : tuple of str
        What the table is indexed by, such as (strategy, attack, partition).
    values : mapping
        Configuration fields.
    """

    key: tuple[str, ...]
    values: Mapping[str, Any]


def run_cell(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Run one configuration, or read its summary where it has been run before."""
    from fedguard.campaigns import cells
    from fedguard.config import parse
    from fedguard.errors import RunError

    digest = parse(values).digest()
    out = folder / digest[:16]
    result = cells.run_cell(values, out)
    summary = cells.finished_summary(out, digest)
    if summary is None:
        raise RunError(f"{out}: {result.error or 'another process runs it'}")
    return summary


def run_cells(
    cells: Iterable[Cell], folder: Path, jobs: int
) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Run all cells, `jobs` at a time; return the summaries of each key, in order of seed.

    Stopping and starting again goes on where it stopped.
    """
    wanted = list(cells)
    context = multiprocessing.get_context("spawn")
    results: dict[int, dict[str, Any]] = {}
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, ProcessPoolExecutor(jobs, mp_context=context) as pool:
        task = progress.add_task("runs", total=len(wanted))
        futures = {
            pool.submit(run_cell, dict(cell.values), folder): position
            for position, cell in enumerate(wanted)
        }
        for future in as_completed(futures):
            if future.exception() is not None:
                pool.shutdown(cancel_futures=True)  # what is wrong with one mostly is with all
            results[futures[future]] = future.result()
            progress.advance(task)
    grouped: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for position, cell in enumerate(wanted):
        grouped.setdefault(cell.key, []).append(results[position])
    return grouped


def spread(values: Sequence[float | None], *, percent: bool = True) -> str:
    """Return ``mean ± standard deviation`` over seeds; a dash where nothing was measured."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    factor = 100.0 if percent else 1.0
    mean = factor * statistics.fmean(known)
    if len(known) == 1:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {factor * statistics.stdev(known):.1f}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def write_section(name: str, text: str, path: Path = RESULTS) -> None:
    """Put `text` between the markers of section `name` in a document; append it if new."""
    start, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    body = f"{start}\n{text.strip()}\n{end}"
    before = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    if start in before and end in before:
        head, rest = before.split(start, 1)
        after = rest.split(end, 1)[1]
        path.write_text(head + body + after, encoding="utf-8")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(before.rstrip() + "\n\n" + body + "\n", encoding="utf-8")


def tell(name: str, text: str, path: Path, *, only_print: bool) -> None:
    """Print a section, or write it into its page; see `write_section`."""
    if only_print:
        print(text)
    else:
        write_section(name, text, path)


def fashion_command(
    name: str,
    page: Path,
    cells: Callable[[str, int, int], Iterable[Cell]],
    report: Callable[[dict[tuple[str, ...], list[dict[str, Any]]], int, int], str],
    folder: Path,
) -> Callable[..., None]:
    """Return the command that writes a section on Fashion-MNIST.

    Parameters
    ----------
    name : str
        Of the section.
    page : Path
        What it goes into.
    cells : callable
        Returns the runs, given data folder, seeds per cell and rounds.
    report : callable
        Returns the section's text, given the summaries of each key, seeds and rounds.
    folder : Path
        Where the runs go if nothing else is asked.
    """
    usual = folder

    def main(
        data_dir: FashionFolder = "",
        seeds: Seeds = 3,
        rounds: Rounds = 10,
        jobs: Jobs = 1,
        only_print: OnlyPrint = False,
        folder: RunsFolder = usual,
    ) -> None:
        grouped = run_cells(cells(data_dir, seeds, rounds), folder, jobs)
        tell(name, report(grouped, seeds, rounds), page, only_print=only_print)

    main.__doc__ = f"Run what is missing and write the section into docs/{page.name}."
    return main


def write_page(title: str, figures: Iterable[go.Figure], text: str, path: Path) -> None:
    """Write one self-contained HTML page: the figures, then the tables as text."""
    drawn = "".join(one.to_html(full_html=False, include_plotlyjs=False) for one in figures)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<script>{get_plotlyjs()}</script>"
        "<body style='font-family:system-ui;max-width:70rem;margin:2rem auto'>"
        f"{drawn}<pre style='white-space:pre-wrap'>{escape(text)}</pre></body></html>",
        encoding="utf-8",
    )


def machine() -> str:
    """Return processor, cores and versions, for the foot of a table."""
    import os
    import platform
    from datetime import date
    from importlib.metadata import version

    return (
        f"{date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {version('torch')}, flwr {version('flwr')}"
    )
