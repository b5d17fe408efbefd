"""Data sets that no default was chosen on, as the referee reads them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import numpy as np

from fedguard.data.dataset import Dataset
from fedguard.data.table import Table
from fedguard.errors import ConfigurationError


class Gtsrb:
    """A sample of the German traffic signs: 7,842 and 2,526 images of 32 x 32, 43 classes.

    Stallkamp et al., "Man vs. Computer: Benchmarking Machine Learning Algorithms for Traffic Sign
    Recognition", Neural Networks 2012. Reads ``gtsrb_32x32_sample.npz``.
    """

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the images, channels first and scaled to [0, 1]."""
        path = _folder(data_dir) / "gtsrb" / "gtsrb_32x32_sample.npz"
        if not path.exists():
            raise ConfigurationError("data_dir", str(data_dir), f"a folder with {path.name}")
        with np.load(path, allow_pickle=False) as found:
            parts = {name: found[name] for name in ("x_train", "y_train", "x_test", "y_test")}
        images = {
            name: np.ascontiguousarray(parts[name].transpose(0, 3, 1, 2), dtype=np.float32) / 255.0
            for name in ("x_train", "x_test")
        }
        return Dataset(
            name="gtsrb",
            x_train=images["x_train"],  # type: ignore[arg-type]
            y_train=parts["y_train"].astype(np.int64),
            x_test=images["x_test"],  # type: ignore[arg-type]
            y_test=parts["y_test"].astype(np.int64),
            num_classes=43,
            class_names=tuple(f"sign {number}" for number in range(43)),
            mean=tuple(images["x_train"].mean(axis=(0, 2, 3)).tolist()),
            std=tuple(images["x_train"].std(axis=(0, 2, 3)).tolist()),
        )


class IscxTor2016(Table):
    """Flows by application, 8 classes; addresses and ports are left out."""

    def __init__(self) -> None:
        drop = ("Source IP", "Source Port", "Destination IP", "Destination Port", "Label3")
        super().__init__("label", drop=drop)

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the table of 10 s flows."""
        self.path = _folder(data_dir) / "iscxtor2016" / "TimeBasedFeatures-10s-Layer2.csv"
        return super().load(data_dir)


class CicIds2017Web(Table):
    """Web attacks of CICIDS2017, 4 classes; identifiers, addresses and times are left out."""

    def __init__(self) -> None:
        drop = ("Flow ID", "Source IP", "Source Port", "Destination IP", "Timestamp")
        super().__init__("Label", drop=drop)

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the balanced table of web attacks."""
        packed = _folder(data_dir) / "cicids2017-web" / "web_attacks_balanced.zip"
        if not packed.exists():
            raise ConfigurationError("data_dir", str(data_dir), f"a folder with {packed.name}")
        with ZipFile(packed) as files, TemporaryDirectory() as folder:
            self.path = Path(files.extract("web_attacks_balanced.csv", folder))
            return super().load(data_dir)


def _folder(data_dir: Path | None) -> Path:
    if data_dir is None:
        raise ConfigurationError("data_dir", None, "the folder that holds the held-out data")
    return Path(data_dir)


def named(name: str) -> dict[str, Any]:
    """Return the configuration's ``dataset`` for a held-out set."""
    own = {"gtsrb": "Gtsrb", "iscxtor2016": "IscxTor2016", "cicids2017-web": "CicIds2017Web"}
    return {"name": f"simulations.held_out:{own[name]}" if name in own else name}
