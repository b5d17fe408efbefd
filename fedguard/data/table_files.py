"""Reading a table's file: text of any common form, or a typed file, into one frame."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fedguard.errors import ConfigurationError

TEXT = (".csv", ".tsv", ".txt")
TYPED = (".parquet", ".feather", ".arrow", ".jsonl", ".ndjson", ".xlsx", ".xls")
PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

_READERS = {".xlsx": "openpyxl", ".xls": "xlrd"}
"""What pandas reads a spreadsheet with; fedguard itself does without."""
_INSTALL = {"openpyxl": "pip install 'fedguard[excel]'", "xlrd": "pip install xlrd"}

FORMS = "CSV (also .tsv, .csv.gz), Parquet, Feather, JSON lines or Excel"

_SEPARATORS = ",;\t|"
_UNEVEN = "some rows have more cells than the header; cells with a separator in them need quotes"
_SAMPLE_LINES = 50
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class RawTable:
    """A table as its file holds it.

    Attributes
    ----------
    frame : DataFrame
        Cells as text, of a text file; else of the file's own types. Column names are stripped.
    separator : str or None
        What separates the cells of a text file.
    notes : tuple of str
        What was done to read it.
    """

    frame: pd.DataFrame
    separator: str | None = None
    notes: tuple[str, ...] = ()


def is_table(path: Path) -> bool:
    """Return whether a file's ending is one of a table."""
    return _ending(path)[0] in (*TEXT, *TYPED)


def find_table(path: Path | None, data_dir: Path | None) -> Path:
    """Return the file that `path` names, in the data folder or from here; else the folder's one.

    Raises
    ------
    ConfigurationError
        On ``dataset.path`` if it is not there, on ``data_dir`` unless the folder has one table.
    """
    if path is not None:
        candidates = [Path(data_dir) / path] if data_dir else []
        for candidate in [*candidates, Path(path).expanduser()]:
            if candidate.is_file():
                return candidate
        raise ConfigurationError("dataset.path", str(path), f"an existing file: {FORMS}")
    folder = Path(data_dir) if data_dir else None
    found = sorted(p for p in folder.iterdir() if is_table(p)) if folder and folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    allowed = f"a folder with one table, {FORMS} (here {len(found)}), or dataset.path"
    raise ConfigurationError("data_dir", None if folder is None else str(folder), allowed)


def read_table(path: Path) -> RawTable:
    """Return what a file holds.

    Raises
    ------
    ConfigurationError
        On ``dataset.path`` if the file is no table, or not one that can be read in one way.
    """
    ending, packed = _ending(path)
    try:
        if ending in TEXT:
            found = _read_text(path, packed)
        elif ending in TYPED and not packed:
            found = RawTable(_read_typed(path, ending))
        else:
            raise _refused(path, f"{FORMS}; save it as one of these")
    except ImportError as error:
        package = _READERS.get(ending, "a package more")
        allowed = f"CSV or Parquet; {ending} needs {package}: {_INSTALL.get(package, str(error))}"
        raise _refused(path, " ".join(allowed.split())[:200]) from error
    except (OSError, ValueError, UnicodeError, EOFError, csv.Error, pd.errors.ParserError) as error:
        if isinstance(error, ConfigurationError):
            raise
        reason = " ".join(str(error).split())[:160]
        raise _refused(path, f"{FORMS}, with the columns' names ({reason})") from error
    names = [str(name).strip() for name in found.frame.columns]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise _refused(path, f"column names once each, not {twice!r}; rename one of them")
    return RawTable(found.frame.set_axis(names, axis=1), found.separator, found.notes)


def _refused(path: Path, allowed: str) -> ConfigurationError:
    return ConfigurationError("dataset.path", str(path), allowed)


def _ending(path: Path) -> tuple[str, str | None]:
    """Return a file's ending without that of packing, and that of packing."""
    suffix = path.suffix.lower()
    if suffix in PACKED:
        return Path(path.stem).suffix.lower(), suffix
    return suffix, None


def _read_typed(path: Path, ending: str) -> pd.DataFrame:
    if ending == ".parquet":
        return pd.read_parquet(path)
    if ending in (".feather", ".arrow"):
        return pd.read_feather(path)
    if ending in (".jsonl", ".ndjson"):
        return pd.read_json(path, lines=True, dtype=False)
    return pd.read_excel(path, dtype=object, keep_default_na=False)


# --- text files --------------------------------------------------------------------------------


def _read_text(path: Path, packed: str | None) -> RawTable:
    """Read a text file: its encoding, its separator, its header, its cells as text."""
    encoding, notes = _encoding(path, packed)
    with _open(path, packed, encoding) as lines:
        sample = lines.read(_SAMPLE_BYTES)
    if "\0" in sample:
        raise ValueError("not text")
    first = sample.split("\n", 1)[0].strip()
    told = len(first) == 5 and first.lower().startswith("sep=")
    separator = first[-1] if told else _separator(sample)
    rows = list(_rows(sample.split("\n", 1)[1] if told else sample, separator))
    if not rows:
        raise ValueError("the file is empty")
    names, row_names = _names([name.strip() for name in rows[0]], rows[1:])
    try:
        with _open(path, packed, encoding) as lines, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                lines,
                sep=separator,
                header=None,
                names=list(range(len(names))),
                dtype=str,
                keep_default_na=False,
                na_filter=False,
                skipinitialspace=True,
                index_col=False,
            )
    except pd.errors.ParserWarning as error:
        raise ValueError(_UNEVEN) from error
    # The header is text among text, so it is read as a row; "sep=;" stands in one before it.
    frame = frame.iloc[1 + told :].reset_index(drop=True).fillna("")
    return _without_unnamed(frame, names, row_names, separator, notes)


def _without_unnamed(
    frame: pd.DataFrame, names: list[str], row_names: bool, separator: str, notes: tuple[str, ...]
) -> RawTable:
    """Leave out unnamed columns that hold nothing, or count or name the rows; name the others."""
    kept = [place for place, name in enumerate(names) if name or (frame[place] != "").any()]
    if 0 in kept and not names[0] and len(frame):
        counted = [[str(row + first) for row in range(len(frame))] for first in (0, 1)]
        if row_names or frame[0].tolist() in counted:
            kept.remove(0)
            notes = (*notes, "first column left out: it has no name, and numbers or names the rows")
    named = [names[place] or f"column {place + 1}" for place in kept]
    return RawTable(frame[kept].set_axis(named, axis=1), separator, notes)


def _open(path: Path, packed: str | None, encoding: str) -> io.TextIOBase:
    if packed is not None:
        opened: io.TextIOBase = PACKED[packed](path, "rt", encoding=encoding, newline="")
        return opened
    return path.open(encoding=encoding, newline="")


def _encoding(path: Path, packed: str | None) -> tuple[str, tuple[str, ...]]:
    """Return a text file's encoding: what its mark says, else UTF-8, else Windows-1252."""
    opened = PACKED[packed](path, "rb") if packed is not None else path.open("rb")
    with opened as content:
        head = content.read(4)
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return "utf-16", ()
        content.seek(0)
        decoder = io.TextIOWrapper(content, encoding="utf-8-sig", newline="")
        try:
            while decoder.read(_SAMPLE_BYTES):
                pass
        except UnicodeDecodeError:
            return "cp1252", ("text is not UTF-8: read as Windows-1252",)
    return "utf-8-sig", ()


def _rows(sample: str, separator: str) -> list[list[str]]:
    """Return the cells of the first lines that are not blank."""
    lines = csv.reader(io.StringIO(sample, newline=""), delimiter=separator, skipinitialspace=True)
    found: list[list[str]] = []
    for cells in lines:
        if cells:
            found.append(cells)
        if len(found) > _SAMPLE_LINES:
            break
    return found


def _separator(sample: str) -> str:
    """Return the separator with which most lines have as many cells as the first, and most cells.

    Cells in quotes count once, whatever stands in them.
    """
    best, best_score = ",", (0.0, 0)
    for separator in _SEPARATORS:
        rows = _rows(sample, separator)
        if not rows or len(rows[0]) < 2:
            continue
        width = len(rows[0])
        alike = sum(width - 1 <= len(row) <= width + 1 for row in rows) / len(rows)
        if (round(alike, 1), width) > best_score:
            best, best_score = separator, (round(alike, 1), width)
    return best


def _names(header: list[str], rows: list[list[str]]) -> tuple[list[str], bool]:
    """Return a name for each column of the rows, and whether the first holds names of rows.

    A last separator that nothing follows is not a column.
    """
    widest = max((len(row) for row in rows), default=len(header))
    names = list(header)
    named = False
    if rows and widest == len(header) + 1:
        extra = [row[-1].strip() for row in rows if len(row) == widest]
        if any(extra):
            named = len(extra) == len(rows) == len({row[0] for row in rows})
            if not named:
                raise ValueError(_UNEVEN)
            names = ["", *names]
        else:
            names = [*names, ""]
    return names, named
