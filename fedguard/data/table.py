"""A table with a label column, from CSV, Parquet and other files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fedguard.data.columns import (
    MAX_MISSING,
    Column,
    Recognised,
    Rules,
    column_notes,
    decimal_of,
    recognise,
    settle_empty,
    texts_of,
)
from fedguard.data.dataset import Dataset
from fedguard.data.encoding import encode_columns
from fedguard.data.labels import classes_of, label_texts
from fedguard.data.sampling import stratified_split
from fedguard.data.table_files import RawTable, find_table, read_table
from fedguard.errors import ConfigurationError, check_choice, check_number, nearest

_SHOWN = 12


class Table:
    """Any CSV (with a header), Parquet, Feather, JSON lines or Excel file with a label column.

    Rows are split into training and test rows by class. A text file may separate by commas,
    semicolons, tabs or bars. Each column is told to be one of these; `columns` says how:

    - numbers, also as people write them: ``1,234``, ``1.234,5``, ``12%`` (0.12), ``$3``, ``(7)``.
      They are scaled through the data set's mean and standard deviation, taken over the training
      rows. Missing ones (empty, ``?``, ``NA``, ...) are filled with the median of the training
      rows, and an indicator beside them says where.
    - dates: days since the first one of the training rows.
    - categories: one indicator each (not scaled), for the `max_categories` most frequent
      categories of the training rows and one for all others; missing is a category.
    - dropped: empty, or numbers of which more than `max_missing` are missing.

    A column that is mostly but not surely of one kind is refused, with what to set. Rows without
    a label, and rows with a number that is infinite or beyond float32, are dropped. The data
    set's notes count all this. In the label column ``None``, ``NA`` and ``null`` are classes.

    Parameters
    ----------
    label : str
        Name of the label column. Its values, as text and sorted, are the classes.
    path : Path, optional
        The file, absolute or relative to the data folder or the working directory. The one table
        in the data folder if left out.
    test_fraction : float
        Share of each class that becomes test rows, in (0, 1).
    drop : tuple of str
        Columns to leave out, such as identifiers and times.
    max_categories : int
        Most categories of one column that get an indicator of their own, >= 1.
    numbers, categories : tuple of str
        Columns to read as numbers (what is none counts as missing), or as categories.
    decimal : str
        Decimal sign of a text file: ``.``, ``,`` or ``auto``.
    max_missing : float
        Share of missing numbers from which on a column is dropped, in (0, 1].
    group : str, optional
        Column that says whom a row belongs to, for the partition `natural`; no feature.
    group_feature : bool
        Whether that column is a feature all the same.
    """

    def __init__(
        self,
        label: str,
        path: Path | None = None,
        test_fraction: float = 0.2,
        drop: tuple[str, ...] = (),
        max_categories: int = 32,
        numbers: tuple[str, ...] = (),
        categories: tuple[str, ...] = (),
        decimal: Literal["auto", ".", ","] = "auto",
        max_missing: float = MAX_MISSING,
        group: str | None = None,
        group_feature: bool = False,
    ) -> None:
        check_number("test_fraction", test_fraction, above=0.0, below=1.0)
        check_number("max_categories", max_categories, at_least=1)
        check_number("max_missing", max_missing, above=0.0, at_most=1.0)
        check_choice("decimal", decimal, ("auto", ".", ","))
        if label in drop:
            raise ConfigurationError("drop", drop, f"columns other than the label {label!r}")
        both = sorted(set(numbers) & set(categories))
        if both:
            raise ConfigurationError("categories", both[0], "a column that numbers does not name")
        self.label = label
        self.path = path
        self.test_fraction = test_fraction
        self.drop = drop
        self.max_categories = max_categories
        self.numbers, self.categories = tuple(numbers), tuple(categories)
        self.decimal = decimal
        self.max_missing = max_missing
        self.group = group
        self.group_feature = group_feature
        self.columns: tuple[Column, ...] = ()

    def group_by(self, by: str) -> None:
        """Let the data set's groups be those of this column, for the partition `natural`."""
        self.group = by

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the table: read, tell the columns' kinds, clean, split, encode.

        Afterwards `columns` says what was made of each column.

        Raises
        ------
        ConfigurationError
            On ``dataset.path`` or ``data_dir`` if there is no readable file, on the argument that
            names a column if there is no such column (names the nearest), on ``dataset.label`` if
            a class has fewer than 2 rows, on ``dataset.numbers`` if a column's kind is doubtful.
        """
        raw = read_table(find_table(self.path, data_dir))
        frame = self._named_columns(raw.frame)
        labels = label_texts(frame[self.label])
        groups = None if self.group is None else texts_of(frame[self.group])
        kept, notes = self._usable(frame, labels, groups)
        frame, labels = frame[kept].reset_index(drop=True), labels[kept].reset_index(drop=True)
        found, bad = self._recognised(frame, raw)
        if bad.any():
            notes.append(f"{bad.sum()} of {len(kept)} rows dropped: infinite number")
        y, classes = classes_of(labels[~bad], self.label)
        train, test = stratified_split(y, self.test_fraction)
        good = torch.from_numpy(np.flatnonzero(~bad))
        encoded = encode_columns(found, good[train], self.max_categories)
        x = torch.from_numpy(encoded.x[~bad])
        self.columns = (*encoded.columns, *self._told(raw.frame, labels, groups, len(classes)))
        own = None if groups is None else groups[kept][~bad].to_numpy(dtype=str)
        names, members = np.unique([] if own is None else own[train.numpy()], return_inverse=True)
        return Dataset(
            name="table",
            x_train=x[train],
            y_train=y[train],
            x_test=x[test],
            y_test=y[test],
            num_classes=len(classes),
            class_names=classes,
            mean=encoded.mean,
            std=encoded.std,
            notes=(*raw.notes, *notes, *column_notes(self.columns)),
            groups=None
            if self.group is None
            else {self.group: torch.from_numpy(members.astype(np.int64))},
            group_names=None
            if self.group is None
            else {self.group: tuple(str(name) for name in names)},
        )

    def _named_columns(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Check every column that is named; return the frame without those to drop."""
        _check_columns(frame, "dataset.label", [self.label])
        _check_columns(frame, "dataset.drop", self.drop)
        _check_columns(frame, "dataset.numbers", self.numbers)
        _check_columns(frame, "dataset.categories", self.categories)
        _check_columns(frame, "partition.by", [] if self.group is None else [self.group])
        left = [name for name in frame.columns if name not in self.drop or name == self.group]
        return frame[left]

    def _usable(
        self, frame: pd.DataFrame, labels: pd.Series, groups: pd.Series | None
    ) -> tuple[NDArray[np.bool_], list[str]]:
        """Return which rows have a label, a group and a value; notes count the others."""
        total = len(frame)
        labelled = (labels != "").to_numpy(dtype=np.bool_)
        values = [name for name in frame.columns if name not in (self.label, self.group)]
        filled = frame[values].notna() & (frame[values].astype("object") != "")
        valued = (
            filled.to_numpy().any(axis=1) if len(values) > 1 else np.ones(total, dtype=np.bool_)
        )
        grouped = np.ones(total, dtype=np.bool_)
        if groups is not None:
            grouped = (groups != "").to_numpy(dtype=np.bool_)
        notes = []
        for lost, why in (
            (~labelled, "no label"),
            (labelled & ~valued, "no values"),
            (labelled & valued & ~grouped, f"no {self.group}"),
        ):
            if lost.any():
                notes.append(f"{lost.sum()} of {total} rows dropped: {why}")
        kept = labelled & valued & grouped
        if not kept.any():
            allowed = f"a table with usable rows ({'; '.join(notes) or 'it has none'})"
            raise ConfigurationError("dataset.path", str(self.path or "table"), allowed)
        return kept, notes

    def _recognised(
        self, frame: pd.DataFrame, raw: RawTable
    ) -> tuple[list[Recognised], NDArray[np.bool_]]:
        """Settle each column's kind; return them, and which rows have an infinite number."""
        aside = {self.label} | (set() if self.group_feature else {self.group})
        features = frame[[name for name in frame.columns if name not in aside]]
        decimal = decimal_of(features) if self.decimal == "auto" else self.decimal
        rules = Rules(self.numbers, self.categories, decimal, raw.separator == ";")
        found = [recognise(features[name], rules) for name in features.columns]
        found = [settle_empty(one, self.max_missing) for one in found]
        bad = np.zeros(len(frame), dtype=np.bool_)
        for one in found:
            if one.values is not None:
                with np.errstate(over="ignore"):
                    bad |= np.isinf(one.values.astype(np.float32))
        return found, bad

    def _told(
        self, frame: pd.DataFrame, labels: pd.Series, groups: pd.Series | None, classes: int
    ) -> Iterable[Column]:
        for name in self.drop:
            yield Column(name, "dropped", "as asked", int(frame[name].isna().sum()))
        yield Column(self.label, "label", f"{classes} classes", len(frame) - len(labels))
        if groups is not None and self.group not in (self.label, None):
            count = groups[groups != ""].nunique()
            yield Column(self.group, "group", f"{count} groups", int((groups == "").sum()))


def _check_columns(frame: pd.DataFrame, field: str, names: Sequence[str]) -> None:
    columns = [str(name) for name in frame.columns]
    for name in names:
        if name not in columns:
            some = ", ".join(columns[:_SHOWN]) + (", ..." if len(columns) > _SHOWN else "")
            allowed = f"{nearest(name, columns)}one of the {len(columns)} columns {some}"
            numbers = pd.to_numeric(pd.Series(columns, dtype="str"), errors="coerce").notna()
            if 2 * numbers.sum() > len(columns):
                allowed += "; the first line must hold the columns' names"
            raise ConfigurationError(field, name, allowed)
