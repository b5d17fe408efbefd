"""Pixels of images of any kind as numbers from 0 to 1."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.errors import ConfigurationError

Depth = Literal["byte", "whole", "real"]

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_FULL = (255, 1023, 4095, 16383, 65535)
"""Greatest values of 8, 10, 12, 14 and 16 bits, which cameras and scanners give."""


@dataclass(frozen=True)
class _Decoded:
    pixels: NDArray[np.float32]
    depth: Depth
    animated: bool


def read_images(files: Sequence[str], size: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return (N, 3, size, size) float32 in [0, 1], and notes; decodes on several threads.

    1. The first frame of an animation, turned as the camera was held, in front of white where it
       is transparent, as RGB.
    2. Resized (bilinear) to `size` x `size`, whatever its proportions.
    3. Bytes are divided by 255. Whole numbers beyond a byte are divided by the greatest value of
       8, 10, 12, 14, 16 or 32 bits, the fewest that hold all such images. Real numbers in [0, 1]
       stay; others go from the least to the greatest of all such images.

    Raises
    ------
    ConfigurationError
        On ``data_dir`` if a file is no readable image (names the file).
    """
    pixels = np.empty((len(files), 3, size, size), dtype=np.float32)
    depths = np.empty(len(files), dtype=object)
    animated = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for row, image in enumerate(pool.map(lambda path: _decode(path, size), files)):
            pixels[row], depths[row] = image.pixels, image.depth
            animated += image.animated
    notes = [f"{animated} images are animated: first frame taken"] if animated else []
    x = torch.from_numpy(pixels)
    whole, real = (torch.from_numpy(depths == depth) for depth in ("whole", "real"))
    if not bool(whole.any() or real.any()):
        return x.div_(255.0), tuple(notes)
    notes += [*_scale_whole(x, whole), *_scale_real(x, real)]
    x[~whole & ~real] /= 255.0
    return x, tuple(notes)


def _scale_whole(x: Tensor, rows: Tensor) -> list[str]:
    if not bool(rows.any()):
        return []
    greatest = float(x[rows].max())
    full = next((one for one in _FULL if one >= greatest), 2**31 - 1)
    x[rows] /= full
    return [f"{int(rows.sum())} images of whole numbers beyond a byte divided by {full}"]


def _scale_real(x: Tensor, rows: Tensor) -> list[str]:
    if not bool(rows.any()):
        return []
    low, high = float(x[rows].min()), float(x[rows].max())
    if low >= 0 and high <= 1:
        return []
    if low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    x[rows] = (x[rows] - low) / max(high - low, 1e-12)
    return [f"{int(rows.sum())} images of real numbers scaled from {low:g} to {high:g}"]


def _decode(path: str, size: int) -> _Decoded:
    from PIL import Image, ImageOps

    errors = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
    try:
        with warnings.catch_warnings(), Image.open(path) as opened:
            warnings.simplefilter("ignore")
            animated = int(getattr(opened, "n_frames", 1)) > 1
            opened.seek(0) if animated else None
            opened.load()
            pixels, depth = _squared(ImageOps.exif_transpose(opened), size)
    except errors as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError("data_dir", path, f"a readable image ({reason})") from error
    return _Decoded(pixels, depth, animated)


def _squared(image: Any, size: int) -> tuple[NDArray[np.float32], Depth]:
    from PIL import Image

    depth: Depth = "real" if image.mode == "F" else "whole" if image.mode in _WIDE else "byte"
    if depth != "byte":
        grey = np.asarray(image, dtype=np.float32)
        if not np.isfinite(grey).all():
            raise ValueError("some pixels are not finite")
        shrunk = Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR)
        plane = np.asarray(shrunk, dtype=np.float32)
        return np.broadcast_to(plane, (3, size, size)), depth
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square, dtype=np.float32).transpose(2, 0, 1), depth
