"""A small recurrent network over words."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from fedguard.errors import check_number


class WordGru(nn.Module):
    """Embedding, one GRU, and logits over the vocabulary at every place.

    Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
    Translation", EMNLP 2014, for the unit. The latent layer is ``embedding``.

    Parameters
    ----------
    input_shape : tuple of int
        (L,), length of a row.
    num_classes : int
        Size V of the vocabulary.
    width : int
        Width of embeddings and state, at least 1.
    """

    latent_layer = "embedding"

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, width: int = 64) -> None:
        super().__init__()
        check_number("width", width, at_least=1)
        self.embedding = nn.Embedding(num_classes, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, V) logits of (B, L) word numbers; (B, 2, L, V) of (B, 2, L) for pairs."""
        states, _ = self.gru(self.embedding(x.flatten(0, -2)))
        return cast("Tensor", self.head(states)).view(*x.shape, -1)
