"""What recommenders share: one table of items that is read and that scores."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from fedguard.errors import check_number

UNLIKELY = -1e9
"""Logit of what is no candidate: finite, and so low that its share and its gradient are 0."""


class ItemModel(nn.Module, ABC):
    """A network whose states score every item by the inner product with its row of `items`.

    With `negatives` above 0 the softmax of a training batch runs over the items in the batch and
    so many others, drawn anew for each batch: rows of the table of all other items get no
    gradient, so that a client's update says nothing about them (see the pre-aggregation
    ``touched-rows``). Item 0, none, occurs in no history. The latent layer is ``norm``.

    Parameters
    ----------
    num_classes : int
        Items and none, V + 1.
    width : int
        Width of embeddings and states, at least 1.
    negatives : int
        Items drawn per batch, at least 0; 0 for the full softmax.

    Attributes
    ----------
    items : nn.Embedding
        (V + 1, width) the item table.
    """

    latent_layer = "norm"

    def __init__(self, num_classes: int, width: int, negatives: int) -> None:
        super().__init__()
        check_number("width", width, at_least=1)
        check_number("negatives", negatives, at_least=0)
        self.negatives = negatives
        self.items = nn.Embedding(num_classes, width)
        nn.init.normal_(self.items.weight, std=0.02)

    @abstractmethod
    def states(self, x: Tensor) -> Tensor:
        """Return (B, L, width) states after each item of (B, L) histories."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, V + 1) logits of what follows each item."""
        scores = self.states(x) @ self.items.weight.T
        if not (self.training and self.negatives):
            return scores
        left_out = torch.ones(scores.shape[-1], dtype=torch.bool, device=x.device)
        left_out[x.flatten()] = False
        left_out[torch.randint(1, len(left_out), (self.negatives,), device=x.device)] = False
        return scores.masked_fill(left_out, UNLIKELY)

    def following(self, x: Tensor) -> Tensor:
        """Return the (B, V + 1) logits of what follows the whole of each history."""
        return self.states(x)[:, -1] @ self.items.weight.T
