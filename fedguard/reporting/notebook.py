"""A run as pandas frames, and its report inside a notebook.

Progress needs nothing of its own there: rich draws the live line in Jupyter where ipywidgets are
installed, and plain lines are shown where they are not (`fedguard.reporting.live`).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from fedguard.errors import check_number
from fedguard.records.reader import OUTCOMES, ClientRecord, number, read_run
from fedguard.reporting.tables import COUNTS, OLD_COUNTS

WHOLE = frozenset({*COUNTS, *OLD_COUNTS, "round"})
"""Columns of counts."""
LARGEST_ID = 2**63 - 1
"""Largest client id that an integer column holds; ids of a Flower run exceed it."""


def frames(run_directory: Path | str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a run's rounds and clients as frames; damaged lines are left out.

    Parameters
    ----------
    run_directory : Path or str
        A run directory, finished or not.

    Returns
    -------
    rounds : DataFrame
        One row per round in ascending order, a column per field of ``rounds.jsonl``: counts as
        ``Int64``, other numbers as ``float64`` with NaN where nothing was measured, lists as they
        are.
    clients : DataFrame
        One row per round and client asked: ``round``, ``client`` (``int64``, or ``string`` where
        an id is no such number), ``malicious``, ``accepted``, ``outcome`` (a category), ``weight``,
        ``num_examples``, ``reason``, and a column ``score.NAME`` for every score.
    """
    run = read_run(Path(run_directory))
    fields = list(dict.fromkeys(["round", *(name for line in run.rounds for name in line)]))
    columns = {name: _column(name, [line.get(name) for line in run.rounds]) for name in fields}
    return pd.DataFrame(columns), _clients(run.clients)


def _column(name: str, values: Sequence[Any]) -> pd.Series[Any]:
    """Return a column of the type that suits what was recorded."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return pd.Series(values, dtype="boolean")
    if any(number(value) is None and not isinstance(value, float) for value in known):
        return pd.Series(values, dtype="object")
    numbers = pd.Series([number(value) for value in values], dtype="float64")
    integral = bool((numbers.dropna() % 1 == 0).all())
    if name in WHOLE and integral:
        return numbers.astype("int64" if name == "round" else "Int64")
    return numbers


def _clients(records: Sequence[ClientRecord]) -> pd.DataFrame:
    scores = list(dict.fromkeys(name for record in records for name in record.scores))
    columns: dict[str, pd.Series[Any]] = {
        "round": pd.Series([r.round for r in records], dtype="int64"),
        "client": _ids([r.client for r in records]),
        "malicious": pd.Series([r.malicious for r in records], dtype="bool"),
        "accepted": pd.Series([r.accepted for r in records], dtype="boolean"),
        "outcome": pd.Series([r.outcome for r in records]).astype(_outcomes(records)),
        "weight": pd.Series([r.weight for r in records], dtype="float64"),
        "num_examples": pd.Series([r.num_examples for r in records], dtype="float64"),
        "reason": pd.Series([r.reason or None for r in records], dtype="string"),
    }
    for name in scores:
        values = [record.scores.get(name) for record in records]
        columns[f"score.{name}"] = pd.Series(values, dtype="float64")
    return pd.DataFrame(columns)


def _outcomes(records: Sequence[ClientRecord]) -> pd.CategoricalDtype:
    others = {record.outcome for record in records} - {None, *OUTCOMES}
    return pd.CategoricalDtype([*OUTCOMES, *sorted(str(other) for other in others)])


def _ids(clients: Sequence[str]) -> pd.Series[Any]:
    digits = all(c.removeprefix("-").isdecimal() and len(c) < 20 for c in clients)
    if digits and all(abs(int(c)) <= LARGEST_ID for c in clients):
        return pd.Series([int(c) for c in clients], dtype="int64")
    return pd.Series(clients, dtype="string")


def inline(report_path: Path | str, height: int = 800) -> str:
    """Return HTML that shows a report inside a notebook, whole and by itself.

    The page is in a frame of its own whose scripts cannot reach the notebook.

    Parameters
    ----------
    report_path : Path or str
        The ``report.html`` of a run, or the page of a comparison.
    height : int
        Of the frame, in pixels, at least 1.
    """
    check_number("height", height, at_least=1)
    page = Path(report_path).read_text(encoding="utf-8")
    style = f"width:100%;height:{int(height)}px;border:0"
    return (
        f'<iframe title="fedguard report" sandbox="allow-scripts" style="{style}" '
        f'srcdoc="{escape(page, quote=True)}"></iframe>'
    )
