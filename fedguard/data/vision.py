"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, in torchvision's folder layout."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.data.idx import find_idx, read_idx
from fedguard.data.sampling import check_samples, stratified_sample
from fedguard.errors import ConfigurationError

CACHE = Path("~/.cache/fedguard")
"""Where files are looked for, and downloaded to, when no data folder is given."""

NETWORK_TIMEOUT = 10.0
"""Seconds a download waits for an answer before it gives up."""

_Part = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]


class _Vision:
    """What the four data sets share: finding, downloading, thinning and scaling.

    Parameters
    ----------
    train_samples, test_samples : int, optional
        Keep only so many rows, every class in proportion, the same rows in every run; all if
        left out.
    download : bool
        Whether files that are missing are downloaded (by torchvision, which checks their MD5).
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    looks_for: tuple[str, ...]

    def __init__(
        self,
        train_samples: int | None = None,
        test_samples: int | None = None,
        download: bool = True,
    ) -> None:
        check_samples("train_samples", train_samples)
        check_samples("test_samples", test_samples)
        self.train_samples = train_samples
        self.test_samples = test_samples
        self.download = download

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the data set from torchvision's files under `data_dir`.

        Parameters
        ----------
        data_dir : Path, optional
            Folder that holds torchvision's layout; ``~/.cache/fedguard`` if None. Missing files
            are downloaded there.

        Raises
        ------
        ConfigurationError
            On ``data_dir`` if the files are not there and cannot be downloaded, or are damaged.
        """
        root = Path(data_dir or CACHE).expanduser()
        if not self._present(root):
            self._download(root)
        x_train, y_train, class_names = self._tensors(root, "train", self.train_samples)
        x_test, y_test, _ = self._tensors(root, "test", self.test_samples)
        if x_train.shape[1:] != x_test.shape[1:]:
            allowed = "training and test images of one size"
            raise ConfigurationError("data_dir", str(root), allowed)
        return Dataset(
            name=self.name,
            x_train=x_train,
            y_train=y_train,
            x_test=x_test,
            y_test=y_test,
            num_classes=len(class_names),
            class_names=class_names,
            mean=self.mean,
            std=self.std,
        )

    def _tensors(
        self, root: Path, part: str, samples: int | None
    ) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        pixels, labels, class_names = self._read(root, part)
        y = torch.from_numpy(labels)
        rows = stratified_sample(y, samples, f"dataset.{part}_samples")
        kept = pixels if samples is None else pixels[rows.numpy()]
        x = torch.from_numpy(kept.astype(np.float32, order="C")).div_(255.0)
        return x, y[rows], class_names

    def _download(self, root: Path) -> None:
        needed = f"a folder with torchvision's files for {self.name} ({self.layout})"
        if not self.download:
            raise ConfigurationError("data_dir", str(root), needed)
        try:
            with _bounded_network(), TemporaryDirectory() as fresh:
                with contextlib.redirect_stdout(sys.stderr):
                    self._source()(root=fresh, train=True, download=True)
                shutil.copytree(fresh, root, dirs_exist_ok=True)
        except Exception as error:  # torchvision raises whatever the network or the disk raises
            allowed = f"{needed}, or a network to download them"
            raise ConfigurationError("data_dir", str(root), allowed) from error
        if not self._present(root):
            raise ConfigurationError("data_dir", str(root), needed)

    def _source(self) -> Callable[..., Any]:
        """Return torchvision's class of the same data (imported late: it costs seconds)."""
        raise NotImplementedError

    def _present(self, root: Path) -> bool:
        """Whether the files are there."""
        raise NotImplementedError

    def _read(self, root: Path, part: str) -> _Part:
        """Return (N, channels, height, width) pixels, (N,) labels and C class names of a part."""
        raise NotImplementedError


@contextlib.contextmanager
def _bounded_network() -> Iterator[None]:
    """Give sockets that set no timeout of their own one, so that no download hangs."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


class Mnist(_Vision):
    """MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels (LeCun et al., 1998).

    Read straight from the IDX files, gzipped or not, so a read-only folder will do.
    """

    name = "mnist"
    class_names: tuple[str, ...] = tuple(str(digit) for digit in range(10))
    mean = (0.1307,)
    std = (0.3081,)
    folder = "MNIST"
    layout = "MNIST/raw/train-images-idx3-ubyte.gz, ..."
    looks_for = ("MNIST/raw/train-images-idx3-ubyte*",)

    def _source(self) -> Callable[..., Any]:
        from torchvision import datasets

        source: Callable[..., Any] = getattr(datasets, self.folder)
        return source

    def _files(self, root: Path) -> dict[str, tuple[Path | None, Path | None]]:
        raw = root / self.folder / "raw"
        return {
            part: (
                find_idx(raw, f"{stem}-images-idx3-ubyte"),
                find_idx(raw, f"{stem}-labels-idx1-ubyte"),
            )
            for part, stem in (("train", "train"), ("test", "t10k"))
        }

    def _present(self, root: Path) -> bool:
        return all(path for pair in self._files(root).values() for path in pair)

    def _read(self, root: Path, part: str) -> _Part:
        image_file, label_file = self._files(root)[part]
        assert image_file is not None
        assert label_file is not None
        pixels, labels = read_idx(image_file, 3), read_idx(label_file, 1)
        if len(pixels) != len(labels) or not len(labels):
            allowed = f"as many labels as images; here {len(labels)} and {len(pixels)}"
            raise ConfigurationError("data_dir", str(label_file), allowed)
        if labels.max() >= len(self.class_names):
            allowed = f"labels below {len(self.class_names)}; here {labels.max()}"
            raise ConfigurationError("data_dir", str(label_file), allowed)
        return pixels[:, None], labels.astype(np.int64), self.class_names


class FashionMnist(Mnist):
    """Fashion-MNIST: 60,000 + 10,000 articles of clothing, 28 x 28 (Xiao et al., 2017)."""

    name = "fashion-mnist"
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    mean = (0.2860,)
    std = (0.3530,)
    folder = "FashionMNIST"
    layout = "FashionMNIST/raw/train-images-idx3-ubyte.gz, ..."
    looks_for = ("FashionMNIST/raw/train-images-idx3-ubyte*",)


class Cifar10(_Vision):
    """CIFAR-10: 50,000 + 10,000 colour photographs of 32 x 32 pixels (Krizhevsky, 2009).

    The files are Python pickles; torchvision reads them, and only if their MD5 is the published
    one.
    """

    name = "cifar10"
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    layout = "cifar-10-batches-py/data_batch_1, ..."
    looks_for = ("cifar-10-batches-py/data_batch_1",)

    def _source(self) -> Callable[..., Any]:
        from torchvision import datasets

        source: Callable[..., Any] = datasets.CIFAR10
        return source

    def _present(self, root: Path) -> bool:
        return (root / self.layout.split("/")[0]).is_dir()

    def _read(self, root: Path, part: str) -> _Part:
        try:
            found = self._source()(root=str(root), train=part == "train", download=False)
        except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
            folder = root / self.layout.split("/")[0]
            allowed = "torchvision's files, complete and undamaged; delete the folder and fetch it"
            raise ConfigurationError("data_dir", str(folder), allowed) from error
        labels = np.asarray(found.targets, dtype=np.int64)
        return np.transpose(found.data, (0, 3, 1, 2)), labels, tuple(found.classes)


class Cifar100(Cifar10):
    """CIFAR-100: as CIFAR-10, with 100 classes of 500 + 100 photographs."""

    name = "cifar100"
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    layout = "cifar-100-python/train, test, meta"
    looks_for = ("cifar-100-python/train",)

    def _source(self) -> Callable[..., Any]:
        from torchvision import datasets

        source: Callable[..., Any] = datasets.CIFAR100
        return source
