"""SASRec: self-attention over a user's last items."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedguard.errors import ConfigurationError, check_number
from fedguard.models.items import ItemModel


class SasRec(ItemModel):
    """Causal self-attention over item and place embeddings; scores by the same item table.

    ``h = blocks(e[x] + p)``, ``logits = norm(h) e^T``, where a place attends to itself and to the
    items before it.

    Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018; one head, layer norm
    before each part, the full softmax in place of their binary loss unless `negatives` are drawn.

    Parameters
    ----------
    input_shape : tuple of int
        (L,), length of a history.
    num_classes : int
        Items and none, V + 1.
    width : int
        Width of embeddings and states, at least 1; 48 here.
    blocks : int
        Attention blocks, at least 1.
    negatives : int
        Items drawn per batch as negatives; 0 for the full softmax. See `ItemModel`.
    dropout : float
        Share of embeddings and of each block's output dropped in training, 0 to below 1.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: int = 48,
        blocks: int = 1,
        negatives: int = 0,
        dropout: float = 0.0,
    ) -> None:
        if len(input_shape) != 1:
            raise ConfigurationError("model", "sasrec", "a data set of histories, such as clicks")
        super().__init__(num_classes, width, negatives)
        check_number("blocks", blocks, at_least=1)
        check_number("dropout", dropout, at_least=0.0, below=1.0)
        self.places = nn.Parameter(torch.randn(input_shape[0], width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def states(self, x: Tensor) -> Tensor:
        """Return (B, L, width) states after each item of (B, L) histories."""
        length = x.shape[1]
        hidden = self.drop(self.items(x) + self.places[-length:])
        seen = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        # A place always sees itself, so that one before the history's beginning is no NaN.
        own = torch.eye(length, dtype=torch.bool, device=x.device)
        mask = (seen & (x > 0)[:, None, :]) | own
        for block in self.blocks:
            hidden = block(hidden, mask)
        found: Tensor = self.norm(hidden)
        return found


class _Block(nn.Module):
    """One head of attention and a network of two layers, each added to what came in."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.inner = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.project(self.before(hidden)).chunk(3, dim=-1)
        agreement = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        shares = agreement.masked_fill(~mask, -math.inf).softmax(dim=-1)
        hidden = hidden + self.drop(self.out(shares @ value))
        found: Tensor = hidden + self.drop(self.inner(self.between(hidden)))
        return found
