"""GRU4Rec: a recurrent network over a user's last items."""

from __future__ import annotations

from torch import Tensor, nn

from fedguard.errors import ConfigurationError
from fedguard.models.items import ItemModel


class Gru4Rec(ItemModel):
    """One GRU over item embeddings; scores by the same item table.

    Hidasi, Karatzoglou, Baltrunas and Tikk, "Session-based Recommendations with Recurrent Neural
    Networks", ICLR 2016; the full softmax in place of their ranking losses unless `negatives` are
    drawn, and one table for what is read and what is scored.

    Parameters
    ----------
    input_shape : tuple of int
        (L,), length of a history.
    num_classes : int
        Items and none, V + 1.
    width : int
        Width of embeddings and state, at least 1.
    negatives : int
        Items drawn per batch as negatives; 0 for the full softmax. See `ItemModel`.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: int = 48,
        negatives: int = 0,
    ) -> None:
        if len(input_shape) != 1:
            raise ConfigurationError("model", "gru4rec", "a data set of histories, such as clicks")
        super().__init__(num_classes, width, negatives)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def states(self, x: Tensor) -> Tensor:
        """Return (B, L, width) states after each item of (B, L) histories."""
        found: Tensor = self.norm(self.gru(self.items(x) * (x > 0)[..., None])[0])
        return found
