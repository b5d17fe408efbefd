"""Scikit-learn's handwritten digits: the data set that is already on the machine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedguard.data.dataset import Dataset
from fedguard.data.sampling import stratified_split


class Digits:
    """1,797 handwritten digits of 8 x 8 pixels, 10 classes, split 80/20 by class.

    The UCI "Optical Recognition of Handwritten Digits" test set as scikit-learn ships it. The
    split is always the same, whatever the run's seed, so accuracies of different runs compare.
    """

    looks_for: ClassVar[tuple[str, ...]] = ()

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the data set; `data_dir` is not used."""
        images, labels = read_digits()
        x = torch.from_numpy(images.astype(np.float32) / 16.0).reshape(-1, 1, 8, 8)
        y = torch.from_numpy(labels.astype(np.int64))
        train, test = stratified_split(y, 0.2)
        return Dataset(
            name="digits",
            x_train=x[train],
            y_train=y[train],
            x_test=x[test],
            y_test=y[test],
            num_classes=10,
            class_names=tuple(str(digit) for digit in range(10)),
            mean=(float(x[train].mean()),),
            std=(float(x[train].std()),),
        )


def read_digits() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (1797, 64) pixels and (1797,) labels from the file in the scikit-learn package.

    Importing scikit-learn costs seconds, which a SuperNode would spend on every message.
    """
    spec = find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.exists():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels
