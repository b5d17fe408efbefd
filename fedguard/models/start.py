"""A model to start from: the tensors of a file, or of a finished run, put into a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from fedguard.errors import ConfigurationError, nearest

_FIELD = "start_from"
_MODEL = "model.safetensors"


def begin_from(module: nn.Module, path: Path, class_names: Sequence[str]) -> None:
    """Copy a file's tensors into a network, what is frozen and its buffers too.

    1. Find the file: `path` itself, or ``model.safetensors`` in the run directory that it names.
    2. If the file lies in a run directory, compare that run's classes with this one's.
    3. Compare names, shapes and kinds of the tensors with the network's, one by one.
    4. Copy them; half precision and double become the network's own type.

    Parameters
    ----------
    module : nn.Module
        The network; changed in place.
    path : Path
        A ``.safetensors`` file, or the directory of a finished run.
    class_names : sequence of str
        The data set's classes.

    Raises
    ------
    ConfigurationError
        On ``start_from`` for the first difference; the network is then as it was.
    """
    file = file_of(path)
    _check_classes(file, class_names)
    tensors = _read(file)
    state = module.state_dict()
    for name, own in state.items():
        if name not in tensors:
            hint = nearest(name, [other for other in tensors if other not in state])
            raise _refused(path, f"{hint}it lacks {name!r}")
        _check_tensor(path, name, tensors[name], own)
    extra = next((name for name in tensors if name not in state), None)
    if extra is not None:
        raise _refused(path, f"it has {extra!r}, which the model has not")
    with torch.no_grad():
        for name, own in state.items():
            own.copy_(tensors[name])
    for name, own in state.items():
        if not torch.equal(own.cpu(), tensors[name].to(own.dtype)):
            raise _refused(path, f"{name!r} is tied to another tensor here and differs from it")


def file_of(path: Path) -> Path:
    """Return the file that a model is read from.

    Raises
    ------
    ConfigurationError
        On ``start_from`` if there is none.
    """
    if path.is_file():
        return path
    if path.is_dir() and (path / _MODEL).is_file():
        return path / _MODEL
    where = f"{path} holds no {_MODEL}" if path.is_dir() else "there is no such file"
    allowed = f"a .safetensors file, or the directory of a finished run ({where})"
    raise ConfigurationError(_FIELD, str(path), allowed)


def sha256_of(path: Path) -> str | None:
    """Return the SHA-256 of the file that a path names, None where it is gone."""
    try:
        return hashlib.sha256(file_of(path).read_bytes()).hexdigest()
    except (ConfigurationError, OSError):
        return None


def _refused(path: Path, difference: str) -> ConfigurationError:
    return ConfigurationError(_FIELD, str(path), f"a file with this model's tensors; {difference}")


def _read(file: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load(file.read_bytes())
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        allowed = f"a .safetensors file that can be read ({reason})"
        raise ConfigurationError(_FIELD, str(file), allowed) from error
    return found


def _check_tensor(path: Path, name: str, found: Tensor, own: Tensor) -> None:
    if tuple(found.shape) != tuple(own.shape):
        told = f"{name!r} has shape {tuple(found.shape)} there and {tuple(own.shape)} here"
        raise _refused(path, told)
    if found.is_complex() or found.is_floating_point() != own.is_floating_point():
        raise _refused(path, f"{name!r} holds {found.dtype} there and {own.dtype} here")
    if found.is_floating_point() and not bool(torch.isfinite(found.to(own.dtype)).all()):
        raise _refused(path, f"{name!r} holds NaN or infinity")


def _check_classes(file: Path, class_names: Sequence[str]) -> None:
    """Refuse a run's model whose classes are others, or in another order."""
    theirs = _summary(file.parent).get("class_names")
    if not isinstance(theirs, list) or not theirs or not class_names:
        return
    if len(theirs) != len(class_names):
        told = f"that run has {len(theirs)} classes, this one {len(class_names)}"
        raise _refused(file, told)
    for place, (one, other) in enumerate(zip(theirs, class_names, strict=True)):
        if str(one) != other:
            raise _refused(file, f"class {place} is {str(one)!r} there and {other!r} here")


def _summary(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
