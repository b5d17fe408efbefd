"""`Encoder`: a convolutional network trained before the federation, read from a file."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from fedguard.errors import ConfigurationError, check_number

STRIDES = (1, 2, 1, 2)
WIDTHS = (16, 32, 32, 64)
MOST = 4096
"""Most channels of a stage; a file that has more is no encoder."""

_FIELD = "encoder"
_WEIGHT = re.compile(r"stages\.(\d)\.0\.weight")


class Encoder(nn.Module):
    """Four 3 x 3 convolutions with BatchNorm and ReLU; of each last channel the largest value.

    Parameters
    ----------
    planes : int
        Channels of an image, at least 1.
    widths : tuple of int
        Channels of the four stages, each 1 to `MOST`.
    """

    def __init__(self, planes: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        check_number("planes", planes, at_least=1)
        if len(widths) != len(STRIDES) or min(widths) < 1 or max(widths) > MOST:
            raise ConfigurationError("widths", widths, f"{len(STRIDES)} numbers from 1 to {MOST}")
        self.planes, self.widths = planes, tuple(widths)
        pairs = itertools.pairwise((planes, *widths))
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                )
                for (before, after), stride in zip(pairs, STRIDES, strict=True)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, widths[-1]) features of (B, planes, height, width) normalised images."""
        found: Tensor = self.stages(x).amax(dim=(2, 3))
        return found


def folded(encoder: Encoder) -> nn.Sequential:
    """Return the stages in evaluation mode as frozen convolutions with a bias, without BatchNorm.

    ``conv(x) gamma / sqrt(var + eps) + beta - mean gamma / sqrt(var + eps)`` is one convolution;
    nothing of it changes in training, and nothing travels.
    """
    stages = []
    for stage in encoder.stages:
        assert isinstance(stage, nn.Sequential)
        conv, norm = stage[0], stage[1]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        slope = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        one = nn.Conv2d(conv.in_channels, conv.out_channels, 3, conv.stride[0], padding=1)
        with torch.no_grad():
            one.weight.copy_(conv.weight * slope[:, None, None, None])
            assert one.bias is not None
            one.bias.copy_(norm.bias - norm.running_mean * slope)
        stages.append(nn.Sequential(one, nn.ReLU()))
    whole = nn.Sequential(*stages)
    for value in whole.parameters():
        value.requires_grad_(False)
    return whole


def write_encoder(encoder: Encoder, path: Path) -> None:
    """Write an encoder's tensors to a ``.safetensors`` file."""
    save_file({n: v.detach().cpu().contiguous() for n, v in encoder.state_dict().items()}, path)


def read_encoder(path: Path, sha256: str | None = None) -> Encoder:
    """Return the encoder that a file holds, in evaluation mode; its sizes are those of its tensors.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file.
    sha256 : str, optional
        What the file's SHA-256 must be, in hexadecimal.

    Raises
    ------
    ConfigurationError
        On ``encoder``, in one line, if the file is not there, is another than `sha256` says,
        cannot be read, holds other tensors than an encoder's, NaN or infinity, or a negative
        variance.
    """
    tensors = _tensors(path, sha256)
    shapes: dict[int, tuple[int, ...]] = {}
    for name, value in tensors.items():
        matched = _WEIGHT.fullmatch(name)
        if matched and value.dim() == 4:
            shapes[int(matched.group(1))] = tuple(value.shape)
    if sorted(shapes) != list(range(len(STRIDES))):
        raise _refused(path, f"it holds {len(tensors)} tensors, not four stages")
    widths = tuple(shapes[stage][0] for stage in range(len(STRIDES)))
    planes = shapes[0][1]
    if min(planes, *widths) < 1 or max(planes, *widths) > MOST:
        raise _refused(path, f"its stages have {(planes, *widths)} channels")
    with torch.device("cpu"):  # where sizes alone are asked for, a network is made without numbers
        encoder = Encoder(planes, widths)
    _check(path, tensors, encoder.state_dict())
    encoder.load_state_dict(tensors)
    return encoder.eval()


def _tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise _refused(path, "there is no such file")
    try:
        content = path.read_bytes()
        found: dict[str, Tensor] = load(content)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise _refused(path, f"it cannot be read: {reason}") from error
    own = hashlib.sha256(content).hexdigest()
    if sha256 is not None and own != sha256.strip().lower():
        raise _refused(path, f"its SHA-256 is {own}, not the one that was asked for")
    return found


def _check(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and values of a file's tensors with an encoder's."""
    for name, value in own.items():
        if name not in tensors:
            raise _refused(path, f"it lacks {name!r}")
        found = tensors[name]
        if found.shape != value.shape:
            told = f"{name!r} has shape {tuple(found.shape)} and not {tuple(value.shape)}"
            raise _refused(path, told)
        if found.dtype != value.dtype:
            raise _refused(path, f"{name!r} holds {found.dtype} and not {value.dtype}")
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise _refused(path, f"{name!r} holds NaN or infinity")
        if name.endswith("running_var") and bool((found < 0).any()):
            raise _refused(path, f"{name!r} holds a negative variance")
    extra = next((name for name in tensors if name not in own), None)
    if extra is not None:
        raise _refused(path, f"it has {extra!r}, which an encoder has not")


def _refused(path: Path, why: str) -> ConfigurationError:
    told = f"a .safetensors file of an encoder ({why}); python -m simulations.encoder writes one"
    return ConfigurationError(_FIELD, str(path), told)
