"""A folder of images, one sub-folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.data.image_files import LAYOUT, Files, find_parts, list_images, told_others
from fedguard.data.image_pixels import read_images
from fedguard.data.sampling import check_samples, stratified_sample, stratified_split
from fedguard.errors import ConfigurationError


class ImageFolder:
    """Any images in one folder per class, as colour squares of one size.

    With ``train/`` and ``test/`` (or ``val/``) in the data folder these are used, and must hold
    the same classes; else each class is split 80/20, the same way every time. Images become RGB,
    resized (bilinear) to `size` x `size`, whatever their proportions; `read_images` says how
    16-bit, real-valued, transparent, turned and animated ones are read. Files whose ending is no
    image's are left out, and the data set's notes count them.

    Parameters
    ----------
    size : int
        Pixels a side, at least 8.
    train_samples, test_samples : int, optional
        Keep only so many images, every class in proportion; all if left out.
    group : int, optional
        Folder level that says whom an image belongs to, for the partition `natural`: 2 is the
        folder within the class's, ``cat/anna/1.png``; 1 the one that holds the classes',
        ``anna/cat/1.png``.
    """

    def __init__(
        self,
        size: int = 32,
        train_samples: int | None = None,
        test_samples: int | None = None,
        group: int | None = None,
    ) -> None:
        if isinstance(size, bool) or size < 8:
            raise ConfigurationError("size", size, "a whole number >= 8")
        if group is not None and (isinstance(group, bool) or group < 1):
            raise ConfigurationError("group", group, "a folder level, 1 or more")
        check_samples("train_samples", train_samples)
        check_samples("test_samples", test_samples)
        self.size = size
        self.train_samples = train_samples
        self.test_samples = test_samples
        self.group = group

    def group_by(self, by: str) -> None:
        """Let the data set's groups be the folders of this level, for the partition `natural`."""
        if not str(by).isdigit() or int(by) < 1:
            allowed = "a folder level: 2 for cat/anna/1.png, 1 for anna/cat/1.png"
            raise ConfigurationError("partition.by", by, allowed)
        self.group = int(by)

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
                "data_dir", None if data_dir is None else str(data_dir), LAYOUT
            )
        root, test_root, notes = find_parts(Path(data_dir))
        train = list_images(root, self.group)
        test = train if test_root is None else list_images(test_root, self.group)
        _check_classes(Path(data_dir), train, test)
        y_train, y_test = _numbers(train), _numbers(test)
        rows, test_rows = torch.arange(len(y_train)), torch.arange(len(y_test))
        if test_root is None:
            rows, test_rows = _split(root, train.names, y_train)
        rows = rows[stratified_sample(y_train[rows], self.train_samples, "dataset.train_samples")]
        kept = stratified_sample(y_test[test_rows], self.test_samples, "dataset.test_samples")
        test_rows = test_rows[kept]
        # Both parts are read at once, so that one scale serves both.
        paths = [train.paths[row] for row in rows.tolist()]
        x, told = read_images([*paths, *(test.paths[row] for row in test_rows.tolist())], self.size)
        x_train = x[: len(paths)]
        std, mean = torch.std_mean(x_train, dim=(0, 2, 3), correction=0)
        groups, names = self._groups(train, rows)
        others = train.others if test_root is None else train.others + test.others
        return Dataset(
            name="image-folder",
            x_train=x_train,
            y_train=y_train[rows],
            x_test=x[len(paths) :],
            y_test=y_test[test_rows],
            num_classes=len(train.names),
            class_names=tuple(train.names),
            mean=tuple(mean.tolist()),
            std=tuple(torch.where(std > 0, std, 1.0).tolist()),
            notes=(*notes, *told_others(others), *told),
            groups=groups,
            group_names=names,
        )

    def _groups(
        self, train: Files, rows: Tensor
    ) -> tuple[dict[str, Tensor] | None, dict[str, tuple[str, ...]] | None]:
        if self.group is None:
            return None, None
        own = [train.groups[row] for row in rows.tolist()]
        names, members = np.unique(own, return_inverse=True)
        key = str(self.group)
        numbers = torch.from_numpy(members.astype(np.int64))
        return {key: numbers}, {key: tuple(str(name) for name in names)}


def _numbers(files: Files) -> Tensor:
    places = {name: place for place, name in enumerate(files.names)}
    return torch.tensor([places[name] for name in files.classes], dtype=torch.int64)


def _check_classes(root: Path, train: Files, test: Files) -> None:
    if test.names != train.names:
        differ = sorted(set(train.names) ^ set(test.names))
        allowed = f"train/ and test/ with the same classes; they differ in {', '.join(differ)}"
        raise ConfigurationError("data_dir", str(root), allowed)
    if len(train.names) < 2:
        allowed = f"{LAYOUT}; its one folder {train.names[0]}/ is one class"
        raise ConfigurationError("data_dir", str(root), allowed)


def _split(root: Path, names: list[str], labels: Tensor) -> tuple[Tensor, Tensor]:
    sizes = torch.bincount(labels)
    if sizes.min() < 2:
        name = names[int(sizes.argmin())]
        raise ConfigurationError("data_dir", str(root / name), "at least 2 images in each class")
    return stratified_split(labels, 0.2)
