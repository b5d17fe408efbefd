"""Dates and times as people write them, as numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_TIME = r"(?:[T ]+(?P<time>\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)\s*(?P<zone>Z|[+-]\d{2}:?\d{2})?)?"
_FORMS = {
    "year": re.compile(rf"(?P<y>\d{{4}})[-/.](?P<m>\d{{1,2}})[-/.](?P<d>\d{{1,2}}){_TIME}"),
    "point": re.compile(rf"(?P<d>\d{{1,2}})\.(?P<m>\d{{1,2}})\.(?P<y>\d{{4}}){_TIME}"),
    "slash": re.compile(rf"(?P<a>\d{{1,2}})[/-](?P<b>\d{{1,2}})[/-](?P<y>\d{{4}}){_TIME}"),
    "word": re.compile(
        rf"(?P<d>\d{{1,2}})[ -](?P<w>[A-Za-z]{{3,9}})\.?[ ,-]+(?P<y>\d{{4}}){_TIME}"
    ),
    "word first": re.compile(
        rf"(?P<w>[A-Za-z]{{3,9}})\.? (?P<d>\d{{1,2}}),? (?P<y>\d{{4}}){_TIME}"
    ),
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?")

DAY = 86_400.0
"""Seconds of a day."""


def read_dates(texts: Sequence[str]) -> tuple[NDArray[np.float64], str]:
    """Return days since 1970 of each cell, NaN where it is no date, and why they leave a doubt.

    Days and months in figures with slashes are told apart by a day above 12; without one they
    leave a doubt.
    """
    found = [_match(text) for text in texts]
    slashes = [match for form, match in found if form == "slash" and match is not None]
    day_first = any(int(match["a"]) > 12 for match in slashes)
    month_first = any(int(match["b"]) > 12 for match in slashes)
    unsure = ""
    if slashes and day_first == month_first:
        unsure = f"{slashes[0][0]} has the day or the month first; write it as 2024-01-31"
    written = [_iso(match, day_first) if match is not None else None for _, match in found]
    stamps = pd.to_datetime(pd.Series(written, dtype="object"), errors="coerce", utc=True)
    epoch = pd.Timestamp(0, tz="UTC")
    days = ((stamps - epoch).dt.total_seconds() / DAY).to_numpy()
    return days.astype(np.float64), unsure


def _match(text: str) -> tuple[str, re.Match[str] | None]:
    for form, pattern in _FORMS.items():
        found = pattern.fullmatch(text)
        if found is not None:
            return form, found
    return "", None


def _iso(match: re.Match[str], day_first: bool) -> str | None:
    parts = match.groupdict()
    if "a" in parts:
        day, month = (parts["a"], parts["b"]) if day_first else (parts["b"], parts["a"])
    else:
        day = parts["d"]
        month = parts.get("m") or str(_month(parts["w"]))
    hours, _, rest = (parts["time"] or "00:00").partition(":")
    seconds = rest if ":" in rest else f"{rest}:00"
    stamp = f"{parts['y']}-{int(month):02}-{int(day):02}T{int(hours):02}:{seconds}"
    return stamp + (parts["zone"] or "Z")


def _month(word: str) -> int:
    short = word.lower()[:3]
    return _MONTHS.index(short) + 1 if short in _MONTHS else 0


def read_clock(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return hours of cells such as 12:30 or 36:05:00, NaN where one is none."""
    hours = np.full(len(texts), np.nan)
    for place, text in enumerate(texts):
        found = _CLOCK.fullmatch(text)
        if found is not None:
            hours[place] = int(found[1]) + int(found[2]) / 60 + float(found[3] or 0) / 3600
    return hours
