"""Folders of images as people have them: the right pixels, or one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedguard.data.dataset import Dataset
from fedguard.data.image_folder import ImageFolder
from fedguard.errors import ConfigurationError

SIDE = 8
Save = Callable[[Path], None]


def ramp(top: float = 1.0) -> np.ndarray:
    """Return (8, 8) values that rise from left to right, 0 to `top`."""
    return np.tile(np.linspace(0.0, top, SIDE), (SIDE, 1))


def colour(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), (red, green, blue), dtype=np.uint8)


def plain(value: int = 10) -> Image.Image:
    return Image.fromarray(colour(value, value, value))


def folder(root: Path, make: Callable[[], Image.Image], ending: str = "png", **save: Any) -> None:
    """Write two classes of two images each: those of class `a` are made, of class `b` dark."""
    for name in "ab":
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            image = make() if name == "a" else None
            if image is None:
                dark = make()
                kind = np.uint16 if dark.mode.startswith("I;16") else None
                image = Image.fromarray(np.zeros((SIDE, SIDE), kind)) if kind else plain(0)
                if dark.mode == "F":
                    image = Image.fromarray(np.zeros((SIDE, SIDE), np.float32))
                image.save(root / name / f"{number}.{ending}")
            else:
                image.save(root / name / f"{number}.{ending}", **save)


def loaded(root: Path, **options: Any) -> tuple[Dataset, torch.Tensor]:
    """Return the data set, and one image of class a."""
    data = ImageFolder(size=SIDE, **options).load(root)
    assert data.class_names == ("a", "b")
    return data, data.x_train[data.y_train == 0][0]


def wide(top: int) -> Callable[[], Image.Image]:
    return lambda: Image.fromarray(np.rint(ramp(top)).astype(np.uint16))


def real(low: float, high: float) -> Callable[[], Image.Image]:
    return lambda: Image.fromarray((low + (high - low) * ramp()).astype(np.float32))


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
def test_grey_of_more_than_eight_bits_keeps_its_levels(tmp_path: Path, top: int) -> None:
    folder(tmp_path, wide(top))
    data, image = loaded(tmp_path)
    for plane in image:
        assert plane.numpy() == pytest.approx(ramp(), abs=0.51 / top)
    assert data.x_train.unique().numel() == SIDE
    assert data.notes == (f"4 images of whole numbers beyond a byte divided by {top}",)


@pytest.mark.parametrize(
    ("low", "high", "told"), [(0, 1, False), (0, 255, True), (0, 0.5, False), (0, 3000, True)]
)
def test_real_numbers_keep_their_levels(
    tmp_path: Path, low: float, high: float, told: bool
) -> None:
    folder(tmp_path, real(low, high), "tiff")
    data, image = loaded(tmp_path)
    wanted = ramp(high) if high <= 1 else ramp()
    assert image[0].numpy() == pytest.approx(wanted, abs=1e-5)
    assert bool(data.notes) is told


def test_real_numbers_below_zero_go_from_least_to_greatest(tmp_path: Path) -> None:
    folder(tmp_path, real(-1000, 1000), "tif")
    _, image = loaded(tmp_path)
    assert image[1].numpy() == pytest.approx(ramp(), abs=1e-5)


def test_bytes_and_wide_images_have_a_scale_each(tmp_path: Path) -> None:
    folder(tmp_path, wide(65535))
    plain(51).save(tmp_path / "b" / "0.png")
    plain(51).save(tmp_path / "b" / "1.png")
    data, image = loaded(tmp_path)
    assert image[0].numpy() == pytest.approx(ramp(), abs=1e-3)
    assert data.x_train[data.y_train == 1].unique().tolist() == [pytest.approx(0.2)]


def palette() -> Image.Image:
    image = Image.new("P", (SIDE, SIDE), 3)
    image.putpalette([0] * 9 + [200, 100, 50])
    return image


def see_through() -> Image.Image:
    values = np.zeros((SIDE, SIDE, 4), dtype=np.uint8)
    values[:, :4] = (200, 100, 50, 255)
    return Image.fromarray(values, "RGBA")


COLOURS: list[tuple[str, Callable[[], Image.Image], str, tuple[float, float, float]]] = [
    ("palette", palette, "png", (200, 100, 50)),
    ("palette in a GIF", palette, "gif", (200, 100, 50)),
    ("grey", lambda: Image.new("L", (SIDE, SIDE), 90), "png", (90, 90, 90)),
    ("black and white", lambda: Image.new("1", (SIDE, SIDE), 1), "png", (255, 255, 255)),
    ("grey, see-through", lambda: Image.new("LA", (SIDE, SIDE), (0, 0)), "png", (255, 255, 255)),
    (
        "half see-through",
        lambda: Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 51)),
        "png",
        (204, 204, 204),
    ),
    (
        "print colours",
        lambda: Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)),
        "tiff",
        (255, 0, 0),
    ),
    ("bitmap", lambda: Image.fromarray(colour(200, 100, 50)), "BMP", (200, 100, 50)),
    ("web", lambda: Image.fromarray(colour(200, 100, 50)), "webp", (200, 100, 50)),
    ("portable", lambda: Image.fromarray(colour(200, 100, 50)), "ppm", (200, 100, 50)),
    ("large letters", lambda: Image.fromarray(colour(200, 100, 50)), "PNG", (200, 100, 50)),
]


@pytest.mark.parametrize(
    ("make", "ending", "wanted"), [c[1:] for c in COLOURS], ids=[c[0] for c in COLOURS]
)
def test_colours_are_those_that_a_person_sees(
    tmp_path: Path, make: Callable[[], Image.Image], ending: str, wanted: tuple[int, int, int]
) -> None:
    folder(tmp_path, make, ending, **({"lossless": True} if ending == "webp" else {}))
    data, image = loaded(tmp_path)
    assert (image * 255).round().reshape(3, -1).unique(dim=1).T.tolist() == [list(wanted)]
    assert data.notes == ()


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    folder(tmp_path, see_through)
    _, image = loaded(tmp_path)
    assert (image[:, 0, 0] * 255).round().tolist() == [200, 100, 50]
    assert (image[:, 0, -1] * 255).round().tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("turn", "brightest"), [(1, "top"), (3, "bottom"), (6, "right"), (8, "left")]
)
def test_a_photograph_is_turned_as_the_camera_was_held(
    tmp_path: Path, turn: int, brightest: str
) -> None:
    values = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    values[0] = 255
    notes = Image.Exif()
    notes[0x0112] = turn
    folder(tmp_path, lambda: Image.fromarray(values), exif=notes)
    _, image = loaded(tmp_path)
    edges = {
        "top": image[0, 0],
        "bottom": image[0, -1],
        "left": image[0, :, 0],
        "right": image[0, :, -1],
    }
    assert {name: float(edge.mean()) for name, edge in edges.items()}[brightest] == 1.0
    assert float(image.mean()) == pytest.approx(1 / SIDE)


@pytest.mark.parametrize("ending", ["gif", "png", "tiff", "webp"])
def test_of_an_animation_the_first_frame_counts(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(colour(v, v, v)) for v in (255, 0, 0)]
    lossless = {"lossless": True} if ending == "webp" else {}
    folder(tmp_path, frames[0].copy, ending, save_all=True, append_images=frames[1:], **lossless)
    data, image = loaded(tmp_path)
    assert image.unique().tolist() == [1.0]
    assert data.notes == ("2 images are animated: first frame taken",)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("train", "val"),
        ("Train", "Test"),
        ("TRAIN", "VALID"),
        ("training", "validation"),
        ("Training", "Testing"),
    ],
)
def test_two_parts_are_a_division_and_no_classes(tmp_path: Path, train: str, test: str) -> None:
    folder(tmp_path / train, lambda: plain(200))
    folder(tmp_path / test, lambda: plain(100))
    data, image = loaded(tmp_path)
    assert image.unique().tolist() == [pytest.approx(200 / 255)]
    assert (len(data.x_train), len(data.x_test)) == (4, 4)
    assert data.x_test[data.y_test == 0].unique().tolist() == [pytest.approx(100 / 255)]
    assert data.notes == ()


def test_of_three_parts_the_validation_one_is_left_out_and_told(tmp_path: Path) -> None:
    for part, value in (("train", 200), ("val", 50), ("test", 100)):
        folder(tmp_path / part, lambda value=value: plain(value))
    data, _ = loaded(tmp_path)
    assert (len(data.x_train), len(data.x_test)) == (4, 4)
    assert data.x_test.max() == pytest.approx(100 / 255)
    assert data.notes == ("folders left out: val/",)


def test_a_lone_train_folder_is_split(tmp_path: Path) -> None:
    folder(tmp_path / "train", lambda: plain(200))
    data, _ = loaded(tmp_path)
    assert (len(data.x_train), len(data.x_test)) == (2, 2)


def test_trains_beside_cars_are_vehicles(tmp_path: Path) -> None:
    for name in ("car", "train"):
        (tmp_path / name).mkdir()
        for number in range(3):
            plain().save(tmp_path / name / f"{number}.png")
    assert ImageFolder(size=SIDE).load(tmp_path).class_names == ("car", "train")


def test_other_files_are_counted_and_hidden_ones_are_not(tmp_path: Path) -> None:
    folder(tmp_path, plain)
    for name in ("notes.txt", "more.txt", "x.heic", "README", ".hidden.png", ".DS_Store"):
        (tmp_path / "a" / name).write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    data, _ = loaded(tmp_path)
    assert len(data.x_train) + len(data.x_test) == 4
    assert len(data.notes) == 1
    assert data.notes[0].startswith("4 files left out")
    assert ".txt 2" in data.notes[0]
    assert "no ending 1" in data.notes[0]


@pytest.mark.parametrize(("level", "inner"), [(2, False), (1, True)])
def test_a_folder_level_tells_whose_images_they_are(
    tmp_path: Path, level: int, inner: bool
) -> None:
    for writer, value in (("anna", 100), ("ben", 200)):
        for name in "ab":
            place = tmp_path / writer / name if inner else tmp_path / name / writer
            place.mkdir(parents=True)
            for number in range(5):
                plain(value).save(place / f"{number}.png")
    loader = ImageFolder(size=SIDE)
    loader.group_by(str(level))
    data = loader.load(tmp_path)
    assert data.class_names == ("a", "b")
    assert data.groups is not None
    assert data.group_names == {str(level): ("anna", "ben")}
    levels = (data.x_train.mean(dim=(1, 2, 3)) * 255).round()
    assert torch.equal(data.groups[str(level)], (levels > 150).long())


def empty_class(root: Path) -> None:
    (root / "c").mkdir()


def one_class(root: Path) -> None:
    for path in (root / "b").iterdir():
        path.unlink()
    (root / "b").rmdir()


def text_as_image(root: Path) -> None:
    (root / "a" / "0.png").write_text("no image")


def cut_off(root: Path) -> None:
    whole = (root / "a" / "0.png").read_bytes()
    (root / "a" / "0.png").write_bytes(whole[: len(whole) // 2])


def not_finite(root: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE), np.nan, np.float32)).save(root / "a" / "0.tiff")


def flat_test_part(root: Path) -> None:
    folder(root / "train", plain)
    (root / "test" / "sub").mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (empty_class, "no image in c/"),
        (one_class, "is one class"),
        (text_as_image, "0.png"),
        (cut_off, "0.png"),
        (not_finite, "not finite"),
        (flat_test_part, "no image in sub/"),
    ],
)
def test_what_is_no_folder_of_images_is_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    folder(tmp_path, plain)
    spoil(tmp_path)
    with pytest.raises(ConfigurationError, match=says) as caught:
        ImageFolder(size=SIDE).load(tmp_path)
    assert caught.value.field == "data_dir"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("by", ["0", "site", "-1", "3"])
def test_a_level_that_is_not_there_is_refused(tmp_path: Path, by: str) -> None:
    folder(tmp_path, plain)

    def load() -> None:
        loader = ImageFolder(size=SIDE)
        loader.group_by(by)
        loader.load(tmp_path)

    with pytest.raises(ConfigurationError) as caught:
        load()
    assert caught.value.field == "partition.by"
