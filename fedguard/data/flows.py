"""What the network-intrusion data sets share: from a frame of flows to a `Dataset`.

1. Identifiers are dropped, and rows with a missing or infinite number; the notes count them.
2. Of rows that are near-duplicates one is kept, and none of them on both sides of a split.
3. Some training rows are set aside as the server's reference. They are in no shard and not in
   the test set, and they alone decide which columns are put on a logarithmic scale, which
   categories get an indicator, and mean and standard deviation of every column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.data.sampling import stratified_sample, stratified_split
from fedguard.errors import ConfigurationError, check_number

HEAVY_TAIL = 100.0
"""Columns that reach this magnitude are counts, bytes or times: they get a logarithmic scale."""

CELL = 0.05
"""Rows that agree in every column to this share of a standard deviation are near-duplicates."""

LIMIT = 10.0
"""Scaled values are cut off this many standard deviations from the mean."""

_IDENTIFIERS = frozenset(
    {
        "flow id",
        "src ip",
        "src port",
        "dst ip",
        "dst port",
        "source ip",
        "source port",
        "destination ip",
        "destination port",
        "timestamp",
        "simillarhttp",
        "unnamed: 0",
    }
)


@dataclass(frozen=True)
class FlowOptions:
    """What a user may choose in every flow data set; checked when made.

    Attributes
    ----------
    test_fraction : float
        Share of each class that becomes test rows, where the data set has no official test set.
    rows_per_class : int, optional
        Most rows taken from one class, before the split; all if left out.
    reference_rows : int
        Training rows set aside for the scaling, >= 2.
    """

    test_fraction: float
    rows_per_class: int | None
    reference_rows: int

    def __post_init__(self) -> None:
        check_number("test_fraction", self.test_fraction, above=0.0, below=1.0)
        check_number("reference_rows", self.reference_rows, at_least=2)
        if self.rows_per_class is not None:
            check_number("rows_per_class", self.rows_per_class, at_least=2)


def normal_name(name: object) -> str:
    """Return a column's name without case and outer space; files disagree about both."""
    return str(name).strip().lower()


def find_files(data_dir: Path | None, patterns: Iterable[str], what: str) -> list[Path]:
    """Return the files of a folder that match, ignoring case, in order of name.

    Raises
    ------
    ConfigurationError
        On ``data_dir`` if there is none.
    """
    folder = None if data_dir is None else Path(data_dir).expanduser()
    wanted = tuple(pattern.lower() for pattern in patterns)
    found = (
        [
            path
            for path in folder.iterdir()
            if any(fnmatchcase(path.name.lower(), p) for p in wanted)
        ]
        if folder is not None and folder.is_dir()
        else []
    )
    if not found:
        shown = None if folder is None else str(folder)
        raise ConfigurationError("data_dir", shown, f"a folder with {what}")
    return sorted(found)


def read_flows(path: Path) -> pd.DataFrame:
    """Return a CSV or Parquet file of flows with normal column names.

    Lines that repeat the header, which some official files have, are left for `clean` to drop.

    Raises
    ------
    ConfigurationError
        On ``data_dir`` if the file cannot be read.
    """
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, low_memory=False, skipinitialspace=True)
    except (OSError, ValueError, UnicodeError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())[:160]
        allowed = f"readable CSV or Parquet files ({reason})"
        raise ConfigurationError("data_dir", str(path), allowed) from error
    frame.columns = pd.Index([normal_name(name) for name in frame.columns])
    return frame.loc[:, ~frame.columns.duplicated()]


def clean(
    frame: pd.DataFrame, labels: pd.Series, categorical: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.Series, list[str]]:
    """Drop identifiers, columns that hold no numbers, and rows that cannot be used.

    Returns
    -------
    tuple of DataFrame, Series and list of str
        Features (numbers as float64, `categorical` as text), labels and notes.
    """
    names = [str(name) for name in frame.columns if name not in _IDENTIFIERS]
    numeric = [name for name in names if name not in categorical]
    numbers = frame[numeric].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    texts = labels.astype("string").str.strip()
    usable = np.isfinite(numbers.to_numpy()).all(axis=1)
    labelled = (texts.notna() & (texts.str.lower() != "label")).to_numpy(dtype=bool)
    notes = []
    if not labelled.all():
        notes.append(f"{(~labelled).sum()} rows dropped: no label")
    if not usable[labelled].all():
        bad = (~usable & labelled).sum()
        notes.append(f"{bad} of {len(frame)} rows dropped: missing or infinite number")
    dropped = [str(name) for name in frame.columns if name in _IDENTIFIERS]
    if dropped:
        notes.append(f"identifiers dropped: {', '.join(dropped)}")
    for name in categorical:
        numbers[name] = frame[name].astype("string").fillna("(missing)").str.strip()
    keep = usable & labelled
    return numbers[keep].reset_index(drop=True), texts[keep].reset_index(drop=True), notes


def to_dataset(
    name: str,
    train: tuple[pd.DataFrame, pd.Series],
    test: tuple[pd.DataFrame, pd.Series] | None,
    options: FlowOptions,
    *,
    classes: Sequence[str] | None = None,
    categorical: Sequence[str] = (),
    notes: Iterable[str] = (),
) -> Dataset:
    """Return cleaned features and labels as a data set; see the module's text for the steps.

    Parameters
    ----------
    name : str
        Registered name.
    train, test : tuple of DataFrame and Series
        Cleaned rows; `test` None means that `train` is split by class.
    options : FlowOptions
        The user's choices.
    classes : sequence of str, optional
        Names in class order; the labels that occur, sorted, if left out.
    categorical : sequence of str
        Columns that hold text.
    notes : iterable of str
        What is known already.
    """
    told = list(notes)
    names = tuple(classes) if classes is not None else _class_names(train[1], told)
    rows, y = _select(train, names, options.rows_per_class)
    reference = stratified_sample(y, min(options.reference_rows, len(y) // 4), "reference_rows")
    encoder = _Encoder(rows.iloc[reference.numpy()], categorical)
    rest = _complement(reference, len(y))
    x, y = encoder(rows.iloc[rest.numpy()]), y[rest]
    told.append(f"{len(reference)} training rows set aside to fit the scaling; in no shard")
    if test is None:
        kept = _distinct(encoder.cells(x))
        told.append(f"{len(y) - len(kept)} of {len(y)} rows dropped: near-duplicates")
        x, y = _frequent(x[kept], y[kept])
        fitting, held = stratified_split(y, options.test_fraction)
        parts = (x[fitting], y[fitting], x[held], y[held])
    else:
        other, y_test = _select(test, names, None)
        x_test = encoder(other)
        kept = _distinct(encoder.cells(x), encoder.cells(x_test))
        told.append(
            f"{len(y) - len(kept)} of {len(y)} training rows dropped: near-duplicates of each "
            "other or of test rows"
        )
        parts = (x[kept], y[kept], x_test, y_test)
    _check_classes(parts[1], names)
    return Dataset(name, *parts, len(names), names, encoder.mean, encoder.std, tuple(told))


class _Encoder:
    """Turns rows into numbers by what the reference rows show."""

    def __init__(self, reference: pd.DataFrame, categorical: Sequence[str]) -> None:
        self.numeric = [name for name in reference.columns if name not in categorical]
        self.vocabulary = {name: sorted(set(reference[name])) for name in categorical}
        values = reference[self.numeric].to_numpy(dtype=np.float64)
        self.heavy = np.abs(values).max(axis=0) >= HEAVY_TAIL
        scaled = self._logarithmic(values)
        centre, width = scaled.mean(axis=0), scaled.std(axis=0)
        self._centre, self._width = centre, np.where(width > 1e-9, width, 1.0)
        indicators = sum(len(words) + 1 for words in self.vocabulary.values())
        self.mean = (*map(float, self._centre), *([0.0] * indicators))
        self.std = (*map(float, self._width), *([1.0] * indicators))

    def _logarithmic(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``sign(v) log(1 + |v|)`` in the heavy-tailed columns."""
        logarithms = np.sign(values) * np.log1p(np.abs(values))
        return np.where(self.heavy, logarithms, values)

    def __call__(self, rows: pd.DataFrame) -> Tensor:
        values = self._logarithmic(rows[self.numeric].to_numpy(dtype=np.float64))
        low, high = self._centre - LIMIT * self._width, self._centre + LIMIT * self._width
        blocks: list[NDArray[np.float64]] = [values.clip(low, high)]
        for name, words in self.vocabulary.items():
            places = {word: place for place, word in enumerate(words)}
            codes = [places.get(word, len(words)) for word in rows[name]]
            blocks.append(np.eye(len(words) + 1)[codes])
        return torch.from_numpy(np.concatenate(blocks, axis=1).astype(np.float32))

    def cells(self, x: Tensor) -> NDArray[np.int16]:
        """Return the (N, features) cells that rows fall into; equal cells are near-duplicates."""
        scaled = (x.numpy() - np.array(self.mean)) / np.array(self.std)
        found: NDArray[np.int16] = np.rint(scaled / CELL).astype(np.int16)
        return found


def _distinct(cells: NDArray[np.int16], taken: NDArray[np.int16] | None = None) -> Tensor:
    """Return the first row of every cell that no row of `taken` falls into, ascending."""
    seen = set() if taken is None else {row.tobytes() for row in taken}
    kept = []
    for position, row in enumerate(cells):
        key = row.tobytes()
        if key not in seen:
            seen.add(key)
            kept.append(position)
    return torch.tensor(kept, dtype=torch.long)


def _class_names(labels: pd.Series, notes: list[str]) -> tuple[str, ...]:
    """Return the labels with at least 20 rows, sorted; note those with fewer."""
    counts = labels.value_counts()
    rare = sorted(str(label) for label in counts.index if counts[label] < 20)
    if rare:
        notes.append(f"classes dropped, fewer than 20 rows: {', '.join(rare)}")
    return tuple(sorted(str(label) for label in counts.index if counts[label] >= 20))


def _select(
    part: tuple[pd.DataFrame, pd.Series], names: tuple[str, ...], most: int | None
) -> tuple[pd.DataFrame, Tensor]:
    """Return the rows of the named classes, at most so many of each, and their class numbers."""
    frame, labels = part
    number = {name: place for place, name in enumerate(names)}
    codes = labels.map(number)
    rows = np.flatnonzero(codes.notna().to_numpy())
    y = codes.iloc[rows].to_numpy(dtype=np.int64, copy=True)
    if most is not None:
        order = np.random.default_rng(0).permutation(len(rows))
        rank = np.empty(len(rows), dtype=np.int64)
        for label in range(len(names)):
            members = order[y[order] == label]
            rank[members] = np.arange(len(members))
        rows, y = rows[rank < most], y[rank < most]
    return frame.iloc[rows], torch.from_numpy(y)


def _complement(rows: Tensor, count: int) -> Tensor:
    left = torch.ones(count, dtype=torch.bool)
    left[rows] = False
    return left.nonzero().flatten()


def _frequent(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of classes with at least 2 rows, as a split needs them."""
    keep = torch.bincount(y)[y] >= 2
    return x[keep], y[keep]


def _check_classes(y: Tensor, names: tuple[str, ...]) -> None:
    counts = y.bincount(minlength=len(names))
    if int((counts > 0).sum()) < 2:
        raise ConfigurationError("data_dir", None, "files whose usable rows have 2 classes or more")
    if int(counts.min()) == 0:
        missing = ", ".join(repr(names[place]) for place in (counts == 0).nonzero().flatten())
        raise ConfigurationError("data_dir", None, f"training rows of {missing}")
