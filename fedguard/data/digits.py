"""Scikit-learn's handwritten digits: the data set that is already on the machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fedguard.data.dataset import Dataset
from fedguard.data.sampling import stratified_split


class Digits:
    """1,797 handwritten digits of 8 x 8 pixels, 10 classes, split 80/20 by class.

    The UCI "Optical Recognition of Handwritten Digits" test set as scikit-learn ships it. The
    split is always the same, whatever the run's seed, so accuracies of different runs compare.
    """

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the data set; `data_dir` is not used."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
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
