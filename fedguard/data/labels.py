"""A table's label column as classes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedguard.data.columns import texts_of
from fedguard.errors import ConfigurationError


def label_texts(column: pd.Series) -> pd.Series:
    """Return the labels as text, empty where missing; whole numbers without a point."""
    typed = not (pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column))
    texts = texts_of(column)
    if typed and pd.api.types.is_float_dtype(column):
        whole = bool((column.dropna() % 1 == 0).all())
        return texts if whole else column.astype("object").astype(str).where(column.notna(), "")
    if not typed and texts.str.contains(".", regex=False).any():
        numbers = pd.to_numeric(texts[texts != ""], errors="coerce")
        if bool((numbers % 1 == 0).all()):
            return numbers.astype(np.int64).astype("str").reindex(texts.index, fill_value="")
    return texts


def classes_of(texts: pd.Series, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Return (N,) class numbers from 0, and the classes' names, sorted.

    Raises
    ------
    ConfigurationError
        On ``dataset.label`` if there are fewer than 2 classes, or one has fewer than 2 rows.
    """
    names, y, sizes = np.unique(texts.to_numpy(dtype=str), return_inverse=True, return_counts=True)
    classes = tuple(str(one) for one in names)
    if len(classes) < 2:
        allowed = f"a column with at least 2 classes; its {len(texts)} usable rows have {classes}"
        raise ConfigurationError("dataset.label", name, allowed)
    if sizes.min() < 2:
        single = np.flatnonzero(sizes < 2)
        rare = ", ".join(repr(classes[row]) for row in single[:5])
        more = f" ({len(single)} such classes of {len(classes)})" if len(single) > 1 else ""
        allowed = f"a column whose classes have at least 2 rows each; {rare} has 1{more}"
        raise ConfigurationError("dataset.label", name, allowed)
    return torch.from_numpy(y.astype(np.int64)), classes
