"""A pre-trained encoder, handed out by the server, and the head that the federation trains."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from fedguard.errors import ConfigurationError, check_number
from fedguard.models.images import check_image
from fedguard.training.encoder import folded, read_encoder


class EncoderHead(nn.Module):
    """A head on an encoder of a file: transfer learning, with the encoder frozen or fine-tuned.

    Frozen, the encoder is a fixed map: BatchNorm is folded into its convolutions, so that no
    statistic moves, and only the head travels. Fine-tuned, all of it does. Whoever made the file
    decides what it sees: a poisoned encoder (`BadEncoder`) makes poisoned heads out of clean data.

    The latent layer is ``pool``: the encoder's features.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width) of one image, at least 8 x 8; the encoder's channels.
    num_classes : int
        Number of classes C.
    encoder : str
        A ``.safetensors`` file as ``python -m simulations.encoder`` writes it; every machine of a
        deployment needs it under this name.
    sha256 : str or None
        What the file's SHA-256 must be; None takes any file.
    frozen : bool
        Whether the encoder stays as it is.
    hidden : int
        Units of a hidden layer of the head, at least 0; 0 for a linear head.
    """

    latent_layer = "pool"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        encoder: str,
        sha256: str | None = None,
        frozen: bool = True,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        planes, _, _ = check_image(input_shape, at_least=8)
        check_number("hidden", hidden, at_least=0)
        found = read_encoder(Path(encoder), sha256)
        if found.planes != planes:
            told = f"an encoder of images with {planes} channels; this one takes {found.planes}"
            raise ConfigurationError("encoder", encoder, told)
        self.features = folded(found) if frozen else found.stages
        self.pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
        width = found.widths[-1]
        if hidden:
            inner = (nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
            self.output: nn.Module = nn.Sequential(*inner)
        else:
            self.output = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C) logits of (B, channels, height, width) normalised images."""
        logits: Tensor = self.output(self.pool(self.features(x)))
        return logits
