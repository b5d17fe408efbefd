"""Reading the IDX files of MNIST and its kin, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedguard.errors import ConfigurationError

_MAGIC = {1: 0x0801, 3: 0x0803}


def find_idx(folder: Path, stem: str) -> Path | None:
    """Return the file `stem` or `stem`.gz in `folder`, or None."""
    candidates = (folder / stem, folder / f"{stem}.gz")
    return next((path for path in candidates if path.is_file()), None)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the unsigned bytes of an IDX file in their shape, read-only.

    The format: a big-endian magic number (0x0801 labels, 0x0803 images), one 32-bit size per
    dimension, then the bytes.

    Raises
    ------
    ConfigurationError
        On ``data_dir`` if the file cannot be read, is cut short or is something else.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    header = np.frombuffer(raw, dtype=">u4", count=min(1 + dimensions, len(raw) // 4))
    if len(header) != 1 + dimensions or header[0] != _MAGIC[dimensions]:
        raise _damaged(path, f"its magic number is not {_MAGIC[dimensions]:#06x}")
    shape = tuple(int(size) for size in header[1:])
    body = np.frombuffer(raw, dtype=np.uint8, offset=header.nbytes)
    if body.size != math.prod(shape):
        raise _damaged(path, f"{body.size} bytes where its header promises {math.prod(shape)}")
    return body.reshape(shape)


def _damaged(path: Path, reason: str) -> ConfigurationError:
    allowed = f"an undamaged file; delete this one and fetch it again ({reason})"
    return ConfigurationError("data_dir", str(path), allowed)
