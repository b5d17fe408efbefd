"""The command ``fedguard data check FILE``: what fedguard makes of each column of a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedguard.data.columns import Column, Rules, decimal_of, recognise, settle_empty
from fedguard.data.labels import classes_of, label_texts
from fedguard.data.table_files import RawTable, read_table
from fedguard.errors import ConfigurationError, nearest

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

_STYLES = {"dropped": "yellow", "doubtful": "bold red", "label": "green"}


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(help="A table: CSV, Parquet, Feather, JSON lines, Excel.")
    ],
    label: Annotated[
        str | None, typer.Option("--label", help="Name of the label column.", show_default=False)
    ] = None,
) -> None:
    """Say what fedguard makes of each column of a table: number, category, date or dropped."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    if not file.is_file():
        raise ConfigurationError("FILE", str(file), "an existing file")
    raw = read_table(file)
    columns = describe(raw, label)
    grid = Grid(title=f"{escape(file.name)}: {len(raw.frame)} rows, {len(columns)} columns")
    for heading in ("column", "kind", "missing", "why"):
        grid.add_column(heading, justify="right" if heading == "missing" else "left")
    for column in columns:
        style = _STYLES.get(column.kind)
        cells = (column.name, column.kind, str(column.missing), column.why)
        grid.add_row(*map(escape, cells), style=style)
    console = Console()
    console.print(grid)
    for note in raw.notes:
        console.print(f"note: {note}", markup=False)


def describe(raw: RawTable, label: str | None = None) -> Sequence[Column]:
    """Return what is made of each column of a file, in the file's order.

    Parameters
    ----------
    raw : RawTable
        The file.
    label : str, optional
        The label column.

    Raises
    ------
    ConfigurationError
        On ``--label`` if there is no such column (names the nearest).
    """
    frame = raw.frame
    names = [str(name) for name in frame.columns]
    if label is not None and label not in names:
        allowed = nearest(label, names) + ", ".join(names)
        raise ConfigurationError("--label", label, allowed)
    if label is not None:
        frame = frame[label_texts(frame[label]) != ""]
    features = frame[[name for name in names if name != label]]
    rules = Rules(decimal=decimal_of(features), unclear=raw.separator == ";")
    found = []
    for name in names:
        try:
            if name == label:
                texts = label_texts(raw.frame[name])
                _, classes = classes_of(texts[texts != ""], name)
                why = f"{len(classes)} classes: {', '.join(classes[:8])}"
                found.append(Column(name, "label", why, int((texts == "").sum())))
            else:
                found.append(settle_empty(recognise(frame[name], rules)).column)
        except ConfigurationError as error:
            found.append(Column(name, "doubtful", f"set {error.allowed}", 0))
    return found
