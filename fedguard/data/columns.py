"""What each column of a table is: numbers, categories, dates, or nothing to learn from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedguard.data.written_dates import DAY, read_clock, read_dates
from fedguard.data.written_numbers import Decimal, comma_votes, read_numbers
from fedguard.errors import ConfigurationError

Kind = Literal["number", "category", "date", "dropped", "label", "group", "doubtful"]

SURE = 0.95
"""Share of a column's cells that must be numbers, or dates, for it to be of that kind."""
DOUBTFUL = 0.6
"""Share from which a column that is not surely of a kind is asked about."""

MAX_MISSING = 0.5
"""Share of missing numbers beyond which a column is dropped, unless the user says otherwise."""

_NO_CATEGORY = frozenset(
    {"", "?", "#N/A", "<NA>", "N/A", "NA", "NULL", "NaN", "nan", "null", "n/a", "#NA", "-nan"}
)
_SHOWN = 3
_WITH_UNIT = re.compile(r"[-+]?[0-9][0-9.,]*\s*([A-Za-zµ°/]{1,6}[0-9²³]?)")
_MANY = 10
_NOTED = 6
_POLLED = 200


@dataclass(frozen=True)
class Column:
    """What was made of one column.

    Attributes
    ----------
    name : str
        Its name.
    kind : str
        ``number``, ``category``, ``date``, ``dropped``, ``label``, ``group``, or ``doubtful``:
        refused until it is told what it is.
    why : str
        How it was told, and what was done to it.
    missing : int
        Cells without a value.
    features : int
        Features that the model sees of it.
    """

    name: str
    kind: Kind
    why: str
    missing: int
    features: int = 0


@dataclass(frozen=True)
class Recognised:
    """A column with its kind settled.

    Attributes
    ----------
    column : Column
        What is told about it; its features are not yet counted.
    values : array or None
        (N,) float64 of a number or date, NaN where missing.
    texts : Series or None
        (N,) categories, NA where missing.
    """

    column: Column
    values: NDArray[np.float64] | None = None
    texts: pd.Series | None = None


@dataclass(frozen=True)
class Rules:
    """What the user and the file say about all columns.

    Attributes
    ----------
    numbers, categories : tuple of str
        Columns that the user calls numbers or categories.
    decimal : str or None
        The decimal sign, where the user or other columns tell it.
    unclear : bool
        Whether a lone ``1,234`` can be read in two ways.
    """

    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    decimal: Decimal | None = None
    unclear: bool = False


def texts_of(column: pd.Series) -> pd.Series:
    """Return a column's cells as text without blanks around them, empty where missing."""
    texts = column.astype("object").map(_text)
    return texts.where(column.notna(), "").astype("str").str.strip()


def _text(cell: object) -> str:
    if isinstance(cell, bytes):
        return cell.decode("utf-8", errors="replace")
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    return str(cell)


def decimal_of(frame: pd.DataFrame) -> Decimal | None:
    """Return the decimal sign that a table's columns of text agree on; None where they do not."""
    votes: set[Decimal] = set()
    for name in frame.columns:
        if _is_text(frame[name]):
            cells = pd.Series(texts_of(frame[name]).unique(), dtype="str")
            commas, points = (cells[cells.str.contains(sign, regex=False)] for sign in ",.")
            votes |= comma_votes([*commas, *points.head(_POLLED)])
    return next(iter(votes)) if len(votes) == 1 else None


def _is_text(column: pd.Series) -> bool:
    kinds = pd.api.types
    return kinds.is_object_dtype(column) or kinds.is_string_dtype(column)


def recognise(column: pd.Series, rules: Rules) -> Recognised:
    """Settle what a column is.

    Raises
    ------
    ConfigurationError
        On ``dataset.numbers`` if it can be read in two ways; says what to set.
    """
    name = str(column.name)
    kinds = pd.api.types
    if name in rules.categories or isinstance(column.dtype, pd.CategoricalDtype):
        return _category(name, texts_of(column), "named in categories")
    if kinds.is_bool_dtype(column):
        return _number(name, _floats(column), "true is 1")
    if kinds.is_complex_dtype(column):
        return Recognised(Column(name, "dropped", "complex numbers", int(column.isna().sum())))
    if kinds.is_numeric_dtype(column):
        return _number(name, _floats(column), "")
    if kinds.is_timedelta64_dtype(column):
        return _number(name, column.dt.total_seconds().to_numpy(np.float64) / 3600, "hours")
    if kinds.is_datetime64_any_dtype(column):
        return _date(name, pd.to_datetime(column, utc=True))
    if column.map(lambda cell: isinstance(cell, list | dict | tuple | np.ndarray)).any():
        return Recognised(Column(name, "dropped", "lists or mappings", int(column.isna().sum())))
    return _recognise_text(name, texts_of(column), rules)


def _floats(column: pd.Series) -> NDArray[np.float64]:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _number(name: str, values: NDArray[np.float64], why: str) -> Recognised:
    return Recognised(Column(name, "number", why, int(np.isnan(values).sum())), values)


def _date(name: str, stamps: pd.Series) -> Recognised:
    days = ((stamps - pd.Timestamp(0, tz="UTC")).dt.total_seconds() / DAY).to_numpy()
    found = _number(name, days.astype(np.float64), "")
    return replace(found, column=replace(found.column, kind="date"))


def _recognise_text(name: str, texts: pd.Series, rules: Rules) -> Recognised:
    """Settle what a column of text is, by its different cells and how often each occurs."""
    codes, different = pd.factorize(texts)
    cells = [str(cell) for cell in different]
    counts = np.bincount(codes, minlength=len(cells))
    numbers = read_numbers(cells, rules.decimal, rules.unclear)
    present = ~numbers.missing
    total = int(counts[present].sum())
    if not total:
        return _category(name, texts, "")
    if {cell.lower() for cell in np.array(cells, dtype=object)[present]} <= {"true", "false"}:
        truth = np.array([{"true": 1.0, "false": 0.0}.get(c.lower(), np.nan) for c in cells])
        return _number(name, truth[codes], "true is 1")
    share = counts[~np.isnan(numbers.values)].sum() / total
    if share >= SURE or (name in rules.numbers and share > 0):
        if numbers.unsure and name not in rules.numbers:
            raise _ask(name, numbers.unsure)
        return _number(name, numbers.values[codes], _told(numbers.how, numbers.strays))
    if name in rules.numbers:
        allowed = f"columns with numbers; {name} has none, but such as {cells[0]!r}"
        raise ConfigurationError("dataset.numbers", name, allowed)
    if share < DOUBTFUL:
        timed = _recognise_time(name, cells, codes, counts, present)
        if timed is not None:
            return timed
    if share >= DOUBTFUL:
        some = ", ".join(repr(stray) for stray in numbers.strays[:_SHOWN])
        raise _ask(name, f"{share:.0%} of its cells are numbers, others such as {some}")
    _check_units(name, cells, counts, total)
    return _category(name, texts, "")


def _check_units(name: str, cells: Sequence[str], counts: NDArray[np.int64], total: int) -> None:
    """Ask about a column of many different numbers that all carry the same unit."""
    found = [_WITH_UNIT.fullmatch(cell) for cell in cells]
    sizes: Counter[str] = Counter()
    for match, count in zip(found, counts.tolist(), strict=True):
        if match is not None:
            sizes[match[1]] += count
    unit, size = sizes.most_common(1)[0] if sizes else ("", 0)
    if size >= SURE * total and sum(match is not None for match in found) > _MANY:
        raise _ask(name, f"its cells are numbers with {unit!r} behind them; leave {unit!r} out")


def _told(how: str, strays: Sequence[str]) -> str:
    if not strays:
        return how
    some = ", ".join(repr(stray) for stray in strays[:_SHOWN])
    more = f" and {len(strays) - _SHOWN} more" if len(strays) > _SHOWN else ""
    return ", ".join(part for part in (how, f"{some}{more} taken for missing") if part)


def _recognise_time(
    name: str,
    cells: Sequence[str],
    codes: NDArray[np.int64],
    counts: NDArray[np.int64],
    present: NDArray[np.bool_],
) -> Recognised | None:
    """Return the column as dates or times of day; None if it is neither."""
    total = counts[present].sum()
    days, unsure = read_dates(cells)
    share = counts[present & ~np.isnan(days)].sum() / total
    if share >= DOUBTFUL:
        stray = next((c for c, p, d in zip(cells, present, days, strict=True) if p and d != d), "")
        if share < SURE:
            raise _ask(name, f"{share:.0%} of its cells are dates, others such as {stray!r}")
        if unsure:
            raise _ask(name, unsure)
        found = _number(name, days[codes], _told("", [stray] if stray else []))
        return replace(found, column=replace(found.column, kind="date"))
    hours = read_clock(cells)
    if counts[present & ~np.isnan(hours)].sum() / total >= SURE:
        return _number(name, hours[codes], "times of day, in hours")
    return None


def _category(name: str, texts: pd.Series, why: str) -> Recognised:
    known = texts.where(~texts.isin(_NO_CATEGORY))
    if not known.notna().any():
        return Recognised(Column(name, "dropped", "empty", len(texts)))
    missing = int(known.isna().sum())
    return Recognised(Column(name, "category", why, missing), texts=known)


def _ask(name: str, doubt: str) -> ConfigurationError:
    allowed = (
        f"dataset.numbers=[{name}] (what is no number counts as missing), "
        f"dataset.categories=[{name}] or dataset.drop=[{name}]; {doubt}"
    )
    return ConfigurationError("dataset.numbers", name, allowed)


def settle_empty(found: Recognised, max_missing: float = MAX_MISSING) -> Recognised:
    """Return a column as it is, or dropped if more than `max_missing` of its numbers miss."""
    if found.values is None:
        return found
    share = found.column.missing / max(len(found.values), 1)
    if share <= max_missing and share < 1:
        return found
    return Recognised(replace(found.column, kind="dropped", why=f"{share:.0%} missing"))


def column_notes(columns: Sequence[Column]) -> list[str]:
    """Return what a reader of the results should know of the columns, in a few lines."""
    features = [column for column in columns if column.kind in ("number", "category", "date")]
    counts = [
        f"{sum(column.kind == kind for column in features)} {word}"
        for kind, word in (("number", "numbers"), ("category", "of categories"), ("date", "dates"))
        if any(column.kind == kind for column in features)
    ]
    notes = [f"columns: {', '.join(counts)}"]
    dropped = [c for c in columns if c.kind == "dropped" and c.why != "as asked"]
    filled = [c for c in features if c.missing and c.kind != "category"]
    told = [c for c in features if c.why]
    for some, title, words in (
        (dropped, "columns dropped", [f"{c.name} ({c.why})" for c in dropped]),
        (filled, "missing numbers filled in", [f"{c.name} {c.missing}" for c in filled]),
        (told, "columns read", [f"{c.name} ({c.why})" for c in told]),
    ):
        if some:
            more = f" and {len(words) - _NOTED} more" if len(words) > _NOTED else ""
            notes.append(f"{title}: {', '.join(words[:_NOTED])}{more}")
    return notes
