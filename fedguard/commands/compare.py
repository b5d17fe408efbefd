"""``fedguard compare RUNS...``: run directories and campaign folders side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedguard.records.writer import jsonable, write_atomically

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories or campaign folders.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write one HTML page that opens offline.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a line per defence and scenario.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON object.")
    ] = False,
) -> None:
    """Compare defences over attacks, shares, splits and seeds.

    Runs that differ by their seed alone are one group. A defence is a strategy with its arguments,
    pre-aggregation and assumed share of malicious clients; all else is what it faces. Runs on
    different data sets or with different numbers of rounds are compared separately. Unfinished and
    failed runs are listed and left out.
    """
    from rich.console import Console

    from fedguard.reporting import comparison, comparison_text

    entries, missing = comparison.find_runs(runs)
    found = comparison.compare(entries)
    if csv is not None:
        csv.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(csv, comparison_text.as_csv(found).encode())
    if out is not None:
        from fedguard.reporting.comparison_page import write_page

        write_page(out, found, missing)
    console = Console(stderr=as_json)
    console.print(comparison_text.render(found, missing))
    if out is not None:
        console.print(f"page: {out}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        plain = jsonable(comparison_text.as_plain(found, missing))
        print(json.dumps(plain, allow_nan=False, default=str))
