"""What retrieval by hash codes needs to know beside its rows: codes of classes, and a gallery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from scipy.linalg import hadamard
from torch import Tensor
from torch.nn import functional

from fedguard.errors import check_choice, check_number
from fedguard.randomness import SERVER, generator

HashLoss = Literal["csq", "dpn"]

QUANTISATION = 1e-4
"""Weight of the distance of outputs from -1 and 1 in CSQ's loss."""


@dataclass(frozen=True)
class Retrieval:
    """Codes that images of a class are pulled to, and the pictures that queries are answered with.

    Attributes
    ----------
    loss : str
        ``"csq"`` (central similarity quantisation) or ``"dpn"`` (deep polarised network).
    codes : Tensor
        (C, K) float32 code of each class, -1 and 1.
    gallery_x : Tensor
        (M, ...) pictures as the model sees them.
    gallery_y : Tensor
        (M,) int64 their classes.
    """

    loss: HashLoss
    codes: Tensor
    gallery_x: Tensor
    gallery_y: Tensor

    def losses(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the (B,) losses of (B, K) outputs u against the codes c of their classes.

        CSQ: ``mean BCE((tanh u + 1) / 2, (c + 1) / 2) + 1e-4 mean (|u| - 1)^2``; DPN:
        ``mean max(0, 1 - u c)``; means over the K bits.
        """
        wanted = self.codes.to(output)[y]
        if self.loss == "dpn":
            return functional.relu(1.0 - output * wanted).mean(dim=1)
        # (tanh u + 1) / 2 is the logistic function of 2u.
        bits = functional.binary_cross_entropy_with_logits(
            2.0 * output, (wanted + 1.0) / 2.0, reduction="none"
        )
        return bits.mean(dim=1) + QUANTISATION * (output.abs() - 1.0).square().mean(dim=1)


def class_codes(classes: int, bits: int, loss: HashLoss) -> Tensor:
    """Return the (C, K) float32 codes of classes, the same for everybody who asks.

    CSQ takes rows of a Hadamard matrix, then their opposites, which lie at least K / 2 apart; DPN,
    and CSQ with more than 2 K classes or a K that is no power of two, draws balanced codes: half
    of each one's bits are 1.
    """
    check_number("classes", classes, at_least=2)
    check_number("bits", bits, at_least=4)
    check_choice("loss", loss, ("csq", "dpn"))
    power = bits & (bits - 1) == 0
    if loss == "csq" and power and classes <= 2 * bits:
        rows = torch.tensor(hadamard(bits), dtype=torch.float32)
        return torch.cat([rows, -rows])[:classes].contiguous()
    stream = generator(0, 0, SERVER, f"{loss} codes")
    half = torch.ones(bits)
    half[: bits // 2] = -1.0
    return torch.stack([half[torch.randperm(bits, generator=stream)] for _ in range(classes)])
