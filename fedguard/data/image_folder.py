"""A folder of images, one sub-folder per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.data.sampling import check_samples, stratified_sample, stratified_split
from fedguard.errors import ConfigurationError

_LAYOUT = "a folder with one sub-folder of images per class, or such folders train/ and test/"

_Files = tuple[list[str], Tensor, list[str]]


class ImageFolder:
    """Any images in torchvision's ImageFolder layout, as colour squares of one size.

    With both ``train/`` and ``test/`` in the data folder these are used, and must hold the same
    classes; else each class is split 80/20, the same way every time. Images are converted to RGB
    and resized (bilinear) to `size` x `size`, whatever their proportions.

    Parameters
    ----------
    size : int
        Pixels a side, at least 8.
    train_samples, test_samples : int, optional
        Keep only so many images, every class in proportion; all if left out.
    """

    def __init__(
        self, size: int = 32, train_samples: int | None = None, test_samples: int | None = None
    ) -> None:
        if isinstance(size, bool) or size < 8:
            raise ConfigurationError("size", size, "a whole number >= 8")
        check_samples("train_samples", train_samples)
        check_samples("test_samples", test_samples)
        self.size = size
        self.train_samples = train_samples
        self.test_samples = test_samples

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the images under `data_dir`.

        Raises
        ------
        ConfigurationError
            On ``data_dir`` if there is no such folder, it has no classes, or an image in it
            cannot be read (names the file).
        """
        if data_dir is None or not Path(data_dir).is_dir():
            raise ConfigurationError(
                "data_dir", None if data_dir is None else str(data_dir), _LAYOUT
            )
        (train, y_train), (test, y_test), classes = _find(Path(data_dir))
        kept = stratified_sample(y_train, self.train_samples, "dataset.train_samples")
        kept_test = stratified_sample(y_test, self.test_samples, "dataset.test_samples")
        x_train = _read([train[row] for row in kept.tolist()], self.size)
        x_test = _read([test[row] for row in kept_test.tolist()], self.size)
        std, mean = torch.std_mean(x_train, dim=(0, 2, 3), correction=0)
        return Dataset(
            name="image-folder",
            x_train=x_train,
            y_train=y_train[kept],
            x_test=x_test,
            y_test=y_test[kept_test],
            num_classes=len(classes),
            class_names=tuple(classes),
            mean=tuple(mean.tolist()),
            std=tuple(torch.where(std > 0, std, 1.0).tolist()),
        )


def _find(root: Path) -> tuple[tuple[list[str], Tensor], tuple[list[str], Tensor], list[str]]:
    """Return files and classes of the training and the test part, and the class names."""
    if (root / "train").is_dir() and (root / "test").is_dir():
        train, y_train, classes = _list(root / "train")
        test, y_test, test_classes = _list(root / "test")
        if test_classes != classes:
            differ = sorted(set(classes) ^ set(test_classes))
            allowed = f"train/ and test/ with the same classes; they differ in {', '.join(differ)}"
            raise ConfigurationError("data_dir", str(root), allowed)
        return (train, y_train), (test, y_test), classes
    files, labels, classes = _list(root)
    sizes = torch.bincount(labels)
    if sizes.min() < 2:
        name = classes[int(sizes.argmin())]
        raise ConfigurationError("data_dir", str(root / name), "at least 2 images in each class")
    train_rows, test_rows = (rows.tolist() for rows in stratified_split(labels, 0.2))
    return (
        ([files[row] for row in train_rows], labels[train_rows]),
        ([files[row] for row in test_rows], labels[test_rows]),
        classes,
    )


def _list(root: Path) -> _Files:
    from torchvision.datasets import ImageFolder as Folder

    try:
        found = Folder(str(root))
    except (FileNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError("data_dir", str(root), f"{_LAYOUT} ({reason})") from error
    return [path for path, _ in found.samples], torch.tensor(found.targets), found.classes


def _read(files: Sequence[str], size: int) -> Tensor:
    """Return (N, 3, size, size) float32 in [0, 1]; decodes on several threads."""
    pixels = np.empty((len(files), 3, size, size), dtype=np.uint8)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for row, image in enumerate(pool.map(lambda path: _decode(path, size), files)):
            pixels[row] = image
    return torch.from_numpy(pixels.astype(np.float32)).div_(255.0)


def _decode(path: str, size: int) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError("data_dir", path, f"a readable image ({reason})") from error
    return np.asarray(square, dtype=np.uint8).transpose(2, 0, 1)
