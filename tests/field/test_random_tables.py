"""Random small tables: every column is read as what it was written as, and as pandas reads it."""

from __future__ import annotations

import csv
import datetime
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedguard.data.columns import Recognised, Rules, decimal_of, recognise
from fedguard.data.table_files import read_table

WORDS = ["red", "blue", "old car", "São Paulo", "it's", 'a "b"', "x, y", "p;q", "none at all", "v2"]
MISSING = ["", "?", "NA", "null", "n/a"]
EPOCH = datetime.date(1970, 1, 1)
FIRST = datetime.date(1990, 1, 1)

Cells = tuple[str, list[str], list[Any]]


def plain(value: float, comma: bool) -> str:
    return f"{value}".replace(".", ",") if comma else f"{value}"


@st.composite
def columns(draw: st.DrawFn, rows: int, comma: bool) -> Cells:
    """Draw a column's kind, its cells as written, and what a person reads (None is missing)."""
    style = draw(
        st.sampled_from(["whole", "real", "thousands", "percent", "money", "date", "word", "truth"])
    )
    some = st.lists(st.integers(-99_999, 99_999), min_size=rows, max_size=rows)
    numbers = draw(some)
    if style == "word":
        words = draw(st.lists(st.sampled_from(WORDS), min_size=rows, max_size=rows))
        return "category", words, words
    if style == "date":
        days = [FIRST + datetime.timedelta(days=abs(number) % 20_000) for number in numbers]
        return (
            "date",
            [str(day) for day in days],
            [(d - datetime.date(1970, 1, 1)).days for d in days],
        )
    if style == "truth":
        truth = [number % 2 == 0 for number in numbers]
        return "number", [str(value) for value in truth], [float(value) for value in truth]
    if style == "thousands":
        values = [float(number * 1000 + 123 + 10**6) for number in map(abs, numbers)]
        grouped = [f"{int(value):,}" for value in values]
        cells = [cell.replace(",", ".") for cell in grouped] if comma else grouped
    elif style == "percent":
        values = [number / 1000 for number in numbers]
        cells = [f"{plain(round(number / 10, 1), comma)}%" for number in numbers]
    elif style == "money":
        values = [number / 100 for number in numbers]
        cells = [f"{'-' if v < 0 else ''}${plain(abs(v), comma)}" for v in values]
    else:
        values = [float(number) if style == "whole" else number / 4 for number in numbers]
        cells = [str(n) if style == "whole" else plain(n / 4, comma) for n in numbers]
    absent = draw(st.lists(st.integers(0, 9), min_size=rows, max_size=rows))
    for row, number in enumerate(absent):
        if number < 2:
            values[row], cells[row] = None, MISSING[draw(st.integers(0, len(MISSING) - 1))]  # type: ignore[call-overload]
    if all(value is None for value in values):
        values[0], cells[0] = 7.0, {"percent": "700%", "money": "$7"}.get(style, "7")  # type: ignore[call-overload]
    return "number", cells, values


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, str, list[Cells]]:
    """Draw a separator, an encoding, and columns; decimal commas go with semicolons or tabs."""
    separator = draw(st.sampled_from([",", ";", "\t", "|"]))
    comma = separator in ";\t" and draw(st.booleans())
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    rows = draw(st.integers(4, 12))
    drawn = draw(st.lists(columns(rows, comma), min_size=1, max_size=5))
    return separator, encoding, drawn


def write(path: Path, separator: str, encoding: str, drawn: list[Cells]) -> None:
    text = io.StringIO()
    out = csv.writer(text, delimiter=separator)
    out.writerow(["y", *(f"c{place}" for place in range(len(drawn)))])
    for row in range(len(drawn[0][1])):
        out.writerow(["ab"[row % 2], *(cells[row] for _, cells, _ in drawn)])
    path.write_bytes(text.getvalue().encode(encoding))


def read(path: Path) -> list[Recognised]:
    raw = read_table(path)
    frame = raw.frame.drop(columns="y")
    rules = Rules(decimal=decimal_of(frame), unclear=raw.separator == ";")
    return [recognise(frame[name], rules) for name in frame.columns]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random")


@given(table=tables())
@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
def test_no_column_changes_its_kind_in_silence(
    folder: Path, table: tuple[str, str, list[Cells]]
) -> None:
    separator, encoding, drawn = table
    path = folder / "t.csv"
    write(path, separator, encoding, drawn)
    theirs = pd.read_csv(path, sep=separator, encoding=encoding)
    for (kind, _, wanted), found, name in zip(drawn, read(path), theirs.columns[1:], strict=True):
        assert found.column.kind == kind
        if kind == "category":
            assert found.texts is not None
            assert found.texts.tolist() == wanted
            continue
        assert found.values is not None
        numbers = np.array([np.nan if value is None else value for value in wanted], dtype=float)
        np.testing.assert_allclose(found.values, numbers, rtol=1e-9, atol=1e-9)
        assert found.column.missing == int(np.isnan(numbers).sum())
        as_pandas = theirs[name]
        if pd.api.types.is_numeric_dtype(as_pandas) and "." not in "".join(map(str, drawn)):
            np.testing.assert_allclose(found.values, as_pandas.astype(float), rtol=1e-9)


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_bytes_are_a_table_or_one_line(folder: Path, content: bytes) -> None:
    from fedguard.data.table import Table
    from fedguard.errors import ConfigurationError

    path = folder / "any.csv"
    path.write_bytes(b"y,v\n" + content)
    try:
        data = Table("y", path=path).load(None)
    except ConfigurationError as error:
        said = str(error)
    else:
        said = data.name
    assert "\n" not in said
