"""Three public tables of people's finances, whose columns parties divide among themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fedguard.data.dataset import Dataset
from fedguard.data.sampling import check_samples, stratified_sample, stratified_split
from fedguard.errors import ConfigurationError

_ADULT_COLUMNS = [
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status"),
    *("occupation", "relationship", "race", "sex", "capital-gain", "capital-loss"),
    *("hours-per-week", "native-country", "income"),
]


class _PublicTable:
    """What the tables share: encoding, thinning, and which encoded columns belong together.

    Parameters
    ----------
    train_samples, test_samples : int, optional
        Keep only so many rows, both classes in proportion, the same rows in every run.
    """

    name: str
    files: tuple[str, ...]
    looks_for: tuple[str, ...]
    folder: str

    def __init__(self, train_samples: int | None = None, test_samples: int | None = None) -> None:
        check_samples("train_samples", train_samples)
        check_samples("test_samples", test_samples)
        self.train_samples, self.test_samples = train_samples, test_samples
        self.groups: tuple[int, ...] = ()

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the table; its files lie in `data_dir` or in a folder of its name in there.

        Afterwards `groups` holds the original column's number of every encoded column.

        Raises
        ------
        ConfigurationError
            On ``data_dir`` if the files are not there or not readable.
        """
        try:
            frame, labels, train, test = self._read([self._path(data_dir, f) for f in self.files])
        except (OSError, ValueError, KeyError, pd.errors.ParserError) as error:
            if isinstance(error, ConfigurationError):
                raise
            reason = " ".join(str(error).split())[:120]
            allowed = f"a folder with the original {', '.join(self.files)} ({reason})"
            raise ConfigurationError("data_dir", str(data_dir), allowed) from error
        y = torch.from_numpy(labels.astype(np.int64))
        train = train[stratified_sample(y[train], self.train_samples, "dataset.train_samples")]
        test = test[stratified_sample(y[test], self.test_samples, "dataset.test_samples")]
        matrix, mean, std, self.groups = encode(frame, train.numpy())
        x = torch.from_numpy(matrix)
        return Dataset(
            name=self.name,
            x_train=x[train],
            y_train=y[train],
            x_test=x[test],
            y_test=y[test],
            num_classes=2,
            class_names=("no", "yes"),
            mean=mean,
            std=std,
        )

    def _path(self, data_dir: Path | None, name: str) -> Path:
        root = Path(data_dir).expanduser() if data_dir else Path(self.folder)
        for candidate in (root / name, root / self.folder / name):
            if candidate.is_file():
                return candidate
        allowed = f"a folder with {name} (or {self.folder}/{name})"
        raise ConfigurationError("data_dir", None if data_dir is None else str(data_dir), allowed)

    def _read(
        self, paths: list[Path]
    ) -> tuple[pd.DataFrame, NDArray[np.bool_], torch.Tensor, torch.Tensor]:
        """Return features, labels, and the ids of training and of test rows."""
        raise NotImplementedError


class Adult(_PublicTable):
    """Adult census income: 14 columns that tell whether a person earns more than 50,000 dollars.

    The published division: 32,561 training and 16,281 test rows.
    """

    name = "adult"
    folder = "adult"
    files = ("adult.data", "adult.test")
    looks_for = ("adult.data",)

    def _read(
        self, paths: list[Path]
    ) -> tuple[pd.DataFrame, NDArray[np.bool_], torch.Tensor, torch.Tensor]:
        parts = [
            pd.read_csv(path, names=_ADULT_COLUMNS, skiprows=skip, skipinitialspace=True)
            for path, skip in zip(paths, (0, 1), strict=True)
        ]
        frame = pd.concat(parts, ignore_index=True)
        labels = frame.pop("income").str.startswith(">50K").to_numpy(dtype=np.bool_)
        first = len(parts[0])
        return frame, labels, torch.arange(first), torch.arange(first, len(frame))


class CreditDefault(_PublicTable):
    """Default of credit card clients in Taiwan: 23 columns, 30,000 rows, split 80/20 by class."""

    name = "credit-default"
    folder = "credit-default"
    files = ("UCI_Credit_Card.csv",)
    looks_for = ("UCI_Credit_Card.csv",)

    def _read(
        self, paths: list[Path]
    ) -> tuple[pd.DataFrame, NDArray[np.bool_], torch.Tensor, torch.Tensor]:
        frame = pd.read_csv(paths[0])
        label = "class" if "class" in frame else "default.payment.next.month"
        labels = frame.pop(label).to_numpy() == 1
        frame = frame.drop(columns=["ID"]).astype({"SEX": str, "EDUCATION": str, "MARRIAGE": str})
        return frame, labels, *_split(labels)


class BankMarketing(_PublicTable):
    """Bank marketing calls: 16 columns, 45,211 rows, split 80/20, on who subscribed."""

    name = "bank-marketing"
    folder = "bank-marketing"
    files = ("bank-full.csv",)
    looks_for = ("bank-full.csv",)

    def _read(
        self, paths: list[Path]
    ) -> tuple[pd.DataFrame, NDArray[np.bool_], torch.Tensor, torch.Tensor]:
        frame = pd.read_csv(paths[0], sep=";")
        labels = frame.pop("y").to_numpy() == "yes"
        return frame, labels, *_split(labels)


def _split(labels: NDArray[np.bool_]) -> tuple[torch.Tensor, torch.Tensor]:
    return stratified_split(torch.from_numpy(labels.astype(np.int64)), 0.2)


def encode(
    frame: pd.DataFrame, train: NDArray[np.int64]
) -> tuple[NDArray[np.float32], tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Return (N, features) float32, mean and deviation per feature, and each one's column.

    Numbers keep their value and are scaled by the data set's mean and deviation over training
    rows; other columns become one indicator per category of the training rows.
    """
    blocks: list[NDArray[np.float32]] = []
    mean: list[float] = []
    std: list[float] = []
    groups: list[int] = []
    for place, name in enumerate(frame.columns):
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column):
            block = column.to_numpy(dtype=np.float32)[:, None]
            mean.append(float(block[train].mean(dtype=np.float64)))
            std.append(float(block[train].std(dtype=np.float64)) or 1.0)
        else:
            texts = column.astype(str).to_numpy(dtype=str)
            known = np.unique(texts[train])
            block = (texts[:, None] == known[None, :]).astype(np.float32)
            mean += [0.0] * len(known)
            std += [1.0] * len(known)
        groups += [place] * block.shape[1]
        blocks.append(block)
    return np.concatenate(blocks, axis=1), tuple(mean), tuple(std), tuple(groups)
