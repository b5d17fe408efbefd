"""Finding the images of a folder: their classes, their groups, and which part is for tests."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fedguard.errors import ConfigurationError

LAYOUT = "a folder with one sub-folder of images per class, or such folders in train/ and test/"

_PHOTOGRAPHS = (".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp")
_DRAWINGS = (".png", ".apng", ".gif", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm")
ENDINGS = frozenset({*_PHOTOGRAPHS, *_DRAWINGS})

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "tests", "val", "valid", "validation", "dev", "eval")
_SHOWN = 5


@dataclass
class Files:
    """Images of one part of a folder.

    Attributes
    ----------
    paths : list of str
        In the order of classes, then folders, then names.
    classes : list of str
        Class of each image.
    groups : list of str
        Group of each image; empty where no folder level is one.
    others : Counter
        Files of other endings, by ending.
    """

    paths: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    @property
    def names(self) -> list[str]:
        """The classes, sorted."""
        return sorted(set(self.classes))


def find_parts(root: Path) -> tuple[Path, Path | None, tuple[str, ...]]:
    """Return the folder to train on, that to test on (None if none is set apart), and notes.

    Folders train/ and test/, or val/, in any case of letters, are a division where they hold
    folders themselves. With both test/ and val/, val/ is left out.
    """
    folders = _folders(root)
    train = next((path for path in folders if path.name.lower() in _TRAIN), None)
    tests = [path for path in folders if path.name.lower() in _TEST]
    if train is None or not _folders(train):
        return root, None, ()
    tests.sort(key=lambda path: _TEST.index(path.name.lower()))
    beside = [path for path in folders if path != train and path not in tests]
    if not tests:
        # A lone train/ is a wrapper; one beside other classes is the vehicle.
        return (root, None, ()) if beside else (train, None, ())
    left = [f"{path.name}/" for path in (*tests[1:], *beside)]
    notes = (f"folders left out: {', '.join(left[:_SHOWN])}",) if left else ()
    return train, tests[0], notes


def _folders(root: Path) -> list[Path]:
    hidden = (".", "__")
    found = (path for path in root.iterdir() if path.is_dir())
    return sorted(path for path in found if not path.name.startswith(hidden))


def list_images(root: Path, level: int | None = None) -> Files:
    """Return the images below a folder, by class.

    Parameters
    ----------
    root : Path
        A folder with one sub-folder per class.
    level : int, optional
        Which level of folders is the group of an image, counted from 1 in `root`; with 1 the
        classes are the folders of level 2, else those of level 1.

    Raises
    ------
    ConfigurationError
        On ``data_dir`` if there are no such folders, or one holds no image; on ``partition.by``
        if an image does not lie so deep.
    """
    found = Files()
    at = 1 if level == 1 else 0
    filled = set()
    for folder in _folders(root):
        for parent, _, names in sorted(os.walk(folder, followlinks=True)):
            for name in sorted(names):
                ending = Path(name).suffix.lower()
                if name.startswith(".") or "__MACOSX" in parent:
                    continue
                if ending not in ENDINGS:
                    found.others[ending or "no ending"] += 1
                    continue
                filled.add(folder)
                parts = Path(parent).relative_to(root).parts
                _add(found, str(Path(parent) / name), parts, at, level)
    empty = [folder for folder in _folders(root) if folder not in filled]
    if empty or not filled:
        reason = f"no image in {empty[0].name}/" if empty else "no sub-folders"
        raise ConfigurationError("data_dir", str(root), f"{LAYOUT} ({reason})")
    order = sorted(range(len(found.paths)), key=lambda row: found.classes[row])
    for values in (found.paths, found.classes, found.groups):
        values[:] = [values[row] for row in order if values]
    return found


def _add(found: Files, path: str, parts: tuple[str, ...], at: int, level: int | None) -> None:
    if level is not None and len(parts) < max(level, at + 1):
        allowed = f"a folder level that every image has; {path} lies {len(parts)} folders deep"
        raise ConfigurationError("partition.by", level, allowed)
    found.paths.append(path)
    found.classes.append(parts[at])
    if level is not None:
        found.groups.append(parts[level - 1])


def told_others(others: Counter[str]) -> tuple[str, ...]:
    """Return the note on files that are no images; none if there are none."""
    if not others:
        return ()
    kinds = ", ".join(f"{ending} {count}" for ending, count in others.most_common(_SHOWN))
    return (f"{others.total()} files left out, their ending is no image's: {kinds}",)
