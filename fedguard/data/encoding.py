"""Columns of a table as the features that a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from fedguard.data.columns import Column, Recognised
from fedguard.errors import ConfigurationError


@dataclass(frozen=True)
class Encoded:
    """A table's features.

    Attributes
    ----------
    x : array
        (N, features) float32, unscaled.
    mean, std : tuple of float
        Of each feature over the training rows; 0 and 1 for indicators.
    columns : tuple of Column
        What was made of each column, its features counted.
    """

    x: NDArray[np.float32]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    columns: tuple[Column, ...]


def encode_columns(found: Sequence[Recognised], train: Tensor, max_categories: int) -> Encoded:
    """Return the features of all columns; means, medians and categories are the training rows'.

    Parameters
    ----------
    found : sequence of Recognised
        The columns.
    train : Tensor
        Training rows.
    max_categories : int
        Most categories of one column that get an indicator of their own.

    Raises
    ------
    ConfigurationError
        On ``dataset.drop`` if no column is left.
    """
    rows = train.numpy()
    blocks: list[NDArray[np.float32]] = []
    mean: list[float] = []
    std: list[float] = []
    columns: list[Column] = []
    for one in found:
        column, block = one.column, None
        if one.values is not None:
            column, block = _number(column, one.values, rows)
            seen = block[rows, 0].astype(np.float64)
            mean += [float(seen.mean()), *[0.0] * (block.shape[1] - 1)]
            std += [float(seen.std()) or 1.0, *[1.0] * (block.shape[1] - 1)]
        elif one.texts is not None:
            column, block = _category(column, one.texts, rows, max_categories)
            mean += [0.0] * block.shape[1]
            std += [1.0] * block.shape[1]
        if block is not None:
            blocks.append(block)
            column = replace(column, features=block.shape[1])
        columns.append(column)
    if not blocks:
        raise ConfigurationError("dataset.drop", None, "fewer columns; none is left to learn from")
    return Encoded(np.concatenate(blocks, axis=1), tuple(mean), tuple(std), tuple(columns))


def _number(
    column: Column, values: NDArray[np.float64], rows: NDArray[np.int64]
) -> tuple[Column, NDArray[np.float32]]:
    """Return the numbers, missing ones filled in, and an indicator beside them where some are."""
    absent = np.isnan(values)
    if column.kind == "date":
        first = np.nanmin(values[rows]) if not absent[rows].all() else 0.0
        first = float(np.floor(first))
        values = values - first
        start = pd.Timestamp(first, unit="D").date()
        column = replace(column, why=", ".join(filter(None, (column.why, f"days since {start}"))))
    known = values[rows][~absent[rows]]
    with np.errstate(over="ignore"):
        filled = np.where(absent, np.median(known) if len(known) else 0.0, values)
        block = filled.astype(np.float32)[:, None]
    if absent.any():
        block = np.concatenate([block, absent.astype(np.float32)[:, None]], axis=1)
    return column, block


def _category(
    column: Column, texts: pd.Series, rows: NDArray[np.int64], max_categories: int
) -> tuple[Column, NDArray[np.float32]]:
    """Return one indicator per frequent category, most frequent first, and one for the others."""
    known = texts.where(texts.notna(), "(missing)")
    counts = known.iloc[rows].value_counts()
    ranked = sorted(counts.index, key=lambda category: (-counts[category], category))
    kept = ranked[:max_categories]
    places = {category: place for place, category in enumerate(kept)}
    codes = known.map(places).fillna(len(kept)).to_numpy(dtype=np.int64)
    indicators: NDArray[np.float32] = np.eye(len(kept) + 1, dtype=np.float32)[codes]
    different = int(known.nunique())
    if different > max_categories:
        why = f"{different} categories, the {max_categories} most frequent kept apart"
        column = replace(column, why=", ".join(filter(None, (column.why, why))))
    return column, indicators
