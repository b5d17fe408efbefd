"""A table with a label column, from CSV or Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.data.sampling import stratified_split
from fedguard.errors import ConfigurationError, check_number, nearest

_SUFFIXES = (".csv", ".parquet")
_SEPARATORS = ",;\t|"
_SHOWN = 12


class Table:
    """Any CSV (with a header) or Parquet file with a label column, split by class.

    A CSV file may separate by commas, semicolons, tabs or bars; its header tells which.
    Numeric columns are kept as they are and scaled through the data set's mean and standard
    deviation, taken over the training rows. Other columns become one indicator per category (not
    scaled), for the `max_categories` most frequent categories of the training rows and one for
    all others. Rows without a label, or with a number that is missing, infinite or beyond
    float32, are dropped, and the data set's notes count them.

    Parameters
    ----------
    label : str
        Name of the label column. Its values, as text and sorted, are the classes.
    path : Path, optional
        The file, absolute or relative to the data folder or the working directory. The one CSV
        or Parquet file in the data folder if left out.
    test_fraction : float
        Share of each class that becomes test rows, in (0, 1).
    drop : tuple of str
        Columns to leave out, such as identifiers and times.
    max_categories : int
        Most categories of one column that get an indicator of their own, >= 1.
    """

    def __init__(
        self,
        label: str,
        path: Path | None = None,
        test_fraction: float = 0.2,
        drop: tuple[str, ...] = (),
        max_categories: int = 32,
    ) -> None:
        check_number("test_fraction", test_fraction, above=0.0, below=1.0)
        check_number("max_categories", max_categories, at_least=1)
        if label in drop:
            raise ConfigurationError("drop", drop, f"columns other than the label {label!r}")
        self.label = label
        self.path = path
        self.test_fraction = test_fraction
        self.drop = drop
        self.max_categories = max_categories

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the table: read, clean, split, encode.

        Raises
        ------
        ConfigurationError
            On ``dataset.path`` or ``data_dir`` if there is no readable file, on
            ``dataset.label`` or ``dataset.drop`` if there is no such column (names the nearest),
            on ``dataset.label`` if a class has fewer than 2 rows.
        """
        frame = _read(self._file(data_dir))
        _check_columns(frame, "dataset.label", [self.label])
        _check_columns(frame, "dataset.drop", self.drop)
        frame = frame.drop(columns=list(self.drop))
        frame, notes = _clean(frame, self.label)
        y, classes = _classes(frame.pop(self.label))
        train, test = stratified_split(y, self.test_fraction)
        x, mean, std = _encode(frame, train, self.max_categories)
        return Dataset(
            name="table",
            x_train=x[train],
            y_train=y[train],
            x_test=x[test],
            y_test=y[test],
            num_classes=len(classes),
            class_names=classes,
            mean=mean,
            std=std,
            notes=notes,
        )

    def _file(self, data_dir: Path | None) -> Path:
        if self.path is not None:
            candidates = [Path(data_dir) / self.path] if data_dir else []
            for candidate in [*candidates, Path(self.path).expanduser()]:
                if candidate.is_file():
                    return candidate
            raise ConfigurationError(
                "dataset.path", str(self.path), "an existing CSV or Parquet file"
            )
        folder = Path(data_dir) if data_dir else None
        found = _tables(folder) if folder and folder.is_dir() else []
        if len(found) == 1:
            return found[0]
        allowed = f"a folder with one CSV or Parquet file (here {len(found)}), or dataset.path"
        raise ConfigurationError("data_dir", None if folder is None else str(folder), allowed)


def _tables(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, sep=_separator(path), low_memory=False, skipinitialspace=True)
    except (OSError, ValueError, UnicodeError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())
        allowed = f"a CSV file with a header, or a Parquet file ({reason})"
        raise ConfigurationError("dataset.path", str(path), allowed) from error
    frame.columns = [str(name).strip() for name in frame.columns]
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ConfigurationError(
            "dataset.path", str(path), f"column names once each, not {twice!r}"
        )
    return frame


def _separator(path: Path) -> str:
    """Return the separator that occurs most often in the header: comma, semicolon, tab or bar."""
    with path.open(encoding="utf-8") as lines:
        header = lines.readline()
    return max(_SEPARATORS, key=header.count)


def _check_columns(frame: pd.DataFrame, field: str, names: Sequence[str]) -> None:
    columns = [str(name) for name in frame.columns]
    for name in names:
        if name not in columns:
            some = ", ".join(columns[:_SHOWN]) + (", ..." if len(columns) > _SHOWN else "")
            allowed = f"{nearest(name, columns)}one of the {len(columns)} columns {some}"
            raise ConfigurationError(field, name, allowed)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column)


def _clean(frame: pd.DataFrame, label: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Drop rows that cannot be used; return the rest and the notes that count them."""
    labelled = frame[label].notna().to_numpy()
    finite = np.ones(len(frame), dtype=np.bool_)
    for name in frame.columns:
        if name != label and _is_number(frame[name]):
            finite &= np.isfinite(_numbers(frame[name]))
    notes = []
    if not labelled.all():
        notes.append(f"{(~labelled).sum()} of {len(frame)} rows dropped: no label")
    if not finite[labelled].all():
        bad = (~finite & labelled).sum()
        notes.append(f"{bad} of {len(frame)} rows dropped: missing or infinite number")
    return frame[labelled & finite].reset_index(drop=True), tuple(notes)


def _numbers(column: pd.Series) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return column.to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)


def _classes(column: pd.Series) -> tuple[Tensor, tuple[str, ...]]:
    whole = pd.api.types.is_float_dtype(column) and bool((column % 1 == 0).all())
    texts = (column.astype(np.int64) if whole else column).astype(str).str.strip()
    names, y, sizes = np.unique(texts.to_numpy(dtype=str), return_inverse=True, return_counts=True)
    classes = tuple(str(name) for name in names)
    if len(classes) < 2:
        allowed = f"a column with at least 2 classes; its usable rows have {len(classes)}"
        raise ConfigurationError("dataset.label", column.name, allowed)
    if sizes.min() < 2:
        rare = ", ".join(repr(classes[row]) for row in np.flatnonzero(sizes < 2)[:5])
        allowed = f"a column whose classes have at least 2 rows each; {rare} has 1"
        raise ConfigurationError("dataset.label", column.name, allowed)
    return torch.from_numpy(y.astype(np.int64)), classes


def _encode(
    frame: pd.DataFrame, train: Tensor, max_categories: int
) -> tuple[Tensor, tuple[float, ...], tuple[float, ...]]:
    """Return (N, features) float32, and mean and standard deviation per feature."""
    blocks: list[NDArray[np.float32]] = []
    mean: list[float] = []
    std: list[float] = []
    for name in frame.columns:
        if _is_number(frame[name]):
            block = _numbers(frame[name])[:, None]
            seen = block[train.numpy()].astype(np.float64)
            mean.append(float(seen.mean()))
            std.append(float(seen.std()) or 1.0)
        else:
            block = _indicators(frame[name], train, max_categories)
            mean += [0.0] * block.shape[1]
            std += [1.0] * block.shape[1]
        blocks.append(block)
    if not blocks:
        raise ConfigurationError("dataset.drop", None, "fewer columns; none is left to learn from")
    return torch.from_numpy(np.concatenate(blocks, axis=1)), tuple(mean), tuple(std)


def _indicators(column: pd.Series, train: Tensor, max_categories: int) -> NDArray[np.float32]:
    """Return one indicator per frequent category, most frequent first, and one for the others."""
    texts = column.astype(str).str.strip().where(column.notna(), "(missing)")
    counts = texts.iloc[train.numpy()].value_counts()
    ranked = sorted(counts.index, key=lambda category: (-counts[category], category))
    kept = ranked[:max_categories]
    places = {category: place for place, category in enumerate(kept)}
    codes = texts.map(places).fillna(len(kept)).to_numpy(dtype=np.int64)
    indicators: NDArray[np.float32] = np.eye(len(kept) + 1, dtype=np.float32)[codes]
    return indicators
