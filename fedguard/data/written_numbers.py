"""Numbers as people write them: 1,234 and 1.234,5, 12%, $3, (7), with unit and space."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Decimal = Literal[".", ","]

MISSING = frozenset(
    {
        *("", "?", "-", "--", "---", ".", "..", "...", "*", "na", "n/a", "n.a.", "n.a", "#n/a"),
        *("nan", "-nan", "null", "nil", "none", "<na>", "missing", "unknown", "nd", "n.d."),
        *("#value!", "#div/0!", "#ref!", "#num!", "#name?", "#null!", "k.a.", "not available"),
    }
)
"""Cells, in small letters, that say that a number is missing."""

_MONEY = r"[$€£¥]|USD|EUR|GBP|CHF|JPY|US\$"
_CELL = re.compile(
    rf"(?P<open>\()?(?P<sign>[-+−])?\s*(?P<money>{_MONEY})?\s*(?P<sign2>[-+−])?"
    r"(?P<body>[0-9.,][0-9.,'’\s\u00a0\u2009\u202f]*?(?:[eE][-+]?[0-9]+)?)"
    rf"\s*(?P<unit>%|{_MONEY})?(?P<close>\))?",
)
_SPACES = re.compile(r"['’\s\u00a0\u2009\u202f]")
_GROUPS = {
    ".": re.compile(r"[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}(?:\.[0-9]*)?"),
    ",": re.compile(r"[0-9]{1,3}(?:\.[0-9]{3})+(?:,[0-9]*)?"),
}
_POINT = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_UNCLEAR = re.compile(r"[1-9][0-9]{0,2},[0-9]{3}")


@dataclass(frozen=True)
class Numbers:
    """What a column's different cells are as numbers.

    Attributes
    ----------
    values : array
        (M,) numbers; NaN where a cell is missing or no number.
    missing : array
        (M,) whether a cell says that its number is missing.
    strays : tuple of str
        Cells that are neither numbers nor missing.
    how : str
        How they were written, where it was not plainly.
    unsure : str
        Why they can be read in two ways; empty where they cannot.
    """

    values: NDArray[np.float64]
    missing: NDArray[np.bool_]
    strays: tuple[str, ...]
    how: str = ""
    unsure: str = ""


@dataclass(frozen=True)
class _Cell:
    body: str
    negative: bool
    money: str
    percent: bool


def _split(text: str) -> _Cell | None:
    found = _CELL.fullmatch(text)
    if found is None or bool(found["open"]) != bool(found["close"]):
        return None
    signs = (found["sign"] or "") + (found["sign2"] or "")
    if len(signs) > 1 or (found["open"] and signs) or (found["money"] and found["unit"]):
        return None
    body = found["body"]
    spaced = _SPACES.split(body)
    if len(spaced) > 1 and not all(re.match(r"[0-9]{3}(?![0-9])", part) for part in spaced[1:]):
        return None
    unit = found["unit"] or ""
    money = found["money"] or (unit if unit != "%" else "")
    return _Cell("".join(spaced), bool(found["open"]) or signs in ("-", "−"), money, unit == "%")


def comma_votes(texts: Sequence[str]) -> set[Decimal]:
    """Return what the cells that can be read in one way alone take for their decimal sign."""
    votes: set[Decimal] = set()
    for text in texts:
        cell = _split(text) if ("," in text or "." in text) else None
        body = "" if cell is None else cell.body
        if _UNCLEAR.fullmatch(body) or not body:
            continue
        if "," not in body:
            if _GROUPS[","].fullmatch(body):
                votes |= {","} if body.count(".") > 1 else set()
            elif _POINT.fullmatch(body):
                votes.add(".")
        elif _GROUPS["."].fullmatch(body) and not body.startswith("0"):
            votes.add(".")
        elif _is_comma_decimal(body):
            votes.add(",")
    return votes


def _is_comma_decimal(body: str) -> bool:
    whole, comma, part = body.partition(",")
    grouped = bool(_GROUPS[","].fullmatch(whole)) or whole.isdigit() or not whole
    return bool(comma) and grouped and bool(re.fullmatch(r"[0-9]*(?:[eE][-+]?[0-9]+)?", part))


def _value(cell: _Cell, decimal: Decimal) -> float | None:
    body = cell.body
    if decimal == ",":
        if _GROUPS[","].fullmatch(body) or _is_comma_decimal(body):
            body = body.replace(".", "").replace(",", ".")
    elif _GROUPS["."].fullmatch(body):
        body = body.replace(",", "")
    if not _POINT.fullmatch(body):
        return None
    number = -float(body) if cell.negative else float(body)
    return number / 100 if cell.percent else number


def read_numbers(texts: Sequence[str], file_decimal: Decimal | None, unclear: bool) -> Numbers:
    """Return a column's different cells as numbers.

    1. What is a plain number, ``-1.5e3``, is that.
    2. The decimal sign is that of the cells that can be read in one way alone; else
       `file_decimal`; else a point, where ``1,234`` is a thousand and more.
    3. A percentage is a hundredth; brackets around a number are a minus.

    Parameters
    ----------
    texts : sequence of str
        (M,) different cells, without blanks around them.
    file_decimal : str, optional
        The decimal sign that the file's other columns, or the user, tell.
    unclear : bool
        Whether ``1,234`` may as well be a little more than one: a file with semicolons.
    """
    series = pd.Series(texts, dtype="str")
    values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, copy=True)
    missing = series.str.lower().isin(MISSING).to_numpy(dtype=np.bool_)
    values[missing] = np.nan
    rest = np.flatnonzero(np.isnan(values) & ~missing)
    cells = {place: _split(texts[place]) for place in rest.tolist()}
    commas = [texts[place] for place in rest.tolist() if cells[place] is not None]
    unsure = ""
    decimal: Decimal = file_decimal or "."
    if any("," in text or text.count(".") > 1 for text in commas):
        dotted = [text for text in texts if "." in text]
        votes = comma_votes([*commas, *dotted])
        if len(votes) == 2:
            unsure = f"commas stand for decimals in some cells, points in others ({commas[0]})"
        elif votes:
            decimal = next(iter(votes))
        elif file_decimal is None and unclear:
            unsure = f"{commas[0]} is a thousand or a decimal number; dataset.decimal tells"
    if decimal == ",":
        _regroup(texts, values)
    for place, cell in cells.items():
        number = _value(cell, decimal) if cell is not None else None
        if number is None and unsure and cell is not None:
            number = _value(cell, "." if decimal == "," else ",")
        values[place] = np.nan if number is None else number
    strays = tuple(texts[place] for place in rest.tolist() if np.isnan(values[place]))
    read = [
        cell for place, cell in cells.items() if cell is not None and not np.isnan(values[place])
    ]
    how, mixed = _units(read, plain=len(texts) - len(rest) - int(missing.sum()))
    marked = any("," in text for text in commas)
    comma = "decimal commas" if decimal == "," and marked else ""
    grouped = "thousands set apart" if not comma and (marked or decimal == ",") and commas else ""
    said = ", ".join(part for part in (comma, grouped, how) if part)
    return Numbers(values, missing, strays, said, unsure or mixed)


def _regroup(texts: Sequence[str], values: NDArray[np.float64]) -> None:
    """Read points as marks of thousands, in place, where all cells with points allow it."""
    dotted = [
        place for place, text in enumerate(texts) if "." in text and not np.isnan(values[place])
    ]
    bodies = [texts[place].lstrip("+-") for place in dotted]
    if bodies and all(_GROUPS[","].fullmatch(body) for body in bodies):
        for place in dotted:
            values[place] = float(texts[place].replace(".", ""))


def _units(cells: Sequence[_Cell], plain: int) -> tuple[str, str]:
    """Return what units were taken off, and why these leave a doubt."""
    percent = sum(cell.percent for cell in cells)
    money = {cell.money for cell in cells if cell.money}
    if percent and (percent < len(cells) or plain):
        return "percentages", "some cells are percentages, others plain numbers"
    if len(money) > 1:
        return "", f"amounts in several currencies ({', '.join(sorted(money))})"
    said = ["percentages as shares"] if percent else []
    said += [f"amounts in {next(iter(money))}"] if money else []
    return ", ".join(said), ""
