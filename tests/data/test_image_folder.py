from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedguard import registry
from fedguard.data.image_folder import ImageFolder
from fedguard.errors import ConfigurationError


def write_images(root: Path, classes: dict[str, int], side: int = 12, mode: str = "RGB") -> None:
    rng = np.random.default_rng(0)
    for level, (name, count) in enumerate(sorted(classes.items())):
        (root / name).mkdir(parents=True)
        for number in range(count):
            noise = rng.integers(0, 20, (side, side, 3)) + 60 * level
            image = Image.fromarray(noise.astype(np.uint8)).convert(mode)
            image.save(root / name / f"{number:03}.png")


def test_one_folder_is_split_by_class(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 20, "dog": 10, "emu": 2})
    data = ImageFolder(size=16).load(tmp_path)
    assert data.x_train.shape == (25, 3, 16, 16)
    assert data.x_train.dtype == torch.float32
    assert data.y_train.bincount().tolist() == [16, 8, 1]
    assert data.y_test.bincount().tolist() == [4, 2, 1]
    assert data.class_names == ("cat", "dog", "emu")
    # Class k was drawn with levels of 60 k to 60 k + 19.
    levels = data.x_train.mean(dim=(1, 2, 3)) * 255
    assert ((levels - 60 * data.y_train - 9.5).abs() < 3).all()
    assert data.mean == pytest.approx(data.x_train.mean(dim=(0, 2, 3)).tolist(), abs=1e-5)
    again = ImageFolder(size=16).load(tmp_path)
    assert torch.equal(data.x_test, again.x_test)


def test_images_of_their_own_size_are_unchanged(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 3, "b": 3}, side=12)
    data = ImageFolder(size=12).load(tmp_path)
    pixels = np.asarray(Image.open(sorted((tmp_path / "b").iterdir())[0])).transpose(2, 0, 1)
    wanted = torch.tensor(pixels / 255, dtype=torch.float32)
    images = torch.cat([data.x_train, data.x_test])
    assert any(torch.allclose(image, wanted) for image in images)


def test_train_and_test_folders_are_used_as_they_are(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"a": 6, "b": 6})
    write_images(tmp_path / "test", {"a": 2, "b": 3}, mode="L")
    data = ImageFolder(size=8, train_samples=4).load(tmp_path)
    assert data.y_train.bincount().tolist() == [2, 2]
    assert data.y_test.bincount().tolist() == [2, 3]
    assert data.x_test.shape == (5, 3, 8, 8)


def test_train_and_test_must_hold_the_same_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"a": 2, "b": 2})
    write_images(tmp_path / "test", {"a": 2, "c": 2})
    with pytest.raises(ConfigurationError, match="differ in b, c"):
        ImageFolder().load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    write_images(tmp_path, {"a": 4, "b": 4})
    bad = tmp_path / "b" / "002.png"
    bad.write_bytes(bad.read_bytes()[:60] if content is None else content)
    with pytest.raises(ConfigurationError, match="readable image") as caught:
        ImageFolder().load(tmp_path)
    assert caught.value.value == str(bad)
    assert "\n" not in str(caught.value)


def test_folders_without_classes_or_images_are_refused(tmp_path: Path) -> None:
    for missing in (None, tmp_path / "nowhere", tmp_path):
        with pytest.raises(ConfigurationError, match="one sub-folder of images per class"):
            ImageFolder().load(missing)
    write_images(tmp_path, {"a": 3, "b": 0})
    with pytest.raises(ConfigurationError, match="data_dir"):
        ImageFolder().load(tmp_path)


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 3, "b": 1})
    with pytest.raises(ConfigurationError, match="at least 2 images"):
        ImageFolder().load(tmp_path)


@pytest.mark.parametrize("size", [0, 7, -1])
def test_the_size_is_at_least_eight(size: int) -> None:
    with pytest.raises(ConfigurationError, match=r"dataset\.size"):
        registry.create("dataset", "image-folder", size=size)
