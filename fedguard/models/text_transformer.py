"""A small transformer over the tokens of a sentence."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.data.vocabulary import PAD, package_file
from fedguard.errors import ConfigurationError, check_choice, check_number

EmbeddingStart = Literal["random", "wordllama"]
WORDLLAMA_WIDTH = 256


class TextTransformer(nn.Module):
    """Embedding, one pre-norm transformer layer, the mean over the tokens, logits.

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, for the layer; positions are not
    encoded. Rows filled up with token 0 give what they give without it. The latent layer is
    ``pooled``, the mean.

    Parameters
    ----------
    input_shape : tuple of int
        (L,), tokens per row.
    num_classes : int
        Number of classes C.
    vocabulary : int, optional
        Number of tokens V; the data set's own if left out.
    width : int, optional
        Width of embeddings and layer, a multiple of `heads`; if left out 64, or 256 with
        wordllama's table.
    heads : int
        Heads of attention, at least 1.
    embedding : str, optional
        ``"random"``, or ``"wordllama"`` (if left out: where the tokens are its pieces): the static
        table of the package of that name (32,000 x 256, half precision, MIT), scaled to rows of
        mean length 1, token 0 set to 0.
    """

    latent_layer = "pooled"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        vocabulary: int | None = None,
        width: int | None = None,
        heads: int = 4,
        embedding: EmbeddingStart | None = None,
    ) -> None:
        super().__init__()
        if vocabulary is None:
            allowed = "a number of tokens, where the data set has no vocabulary"
            raise ConfigurationError("vocabulary", vocabulary, allowed)
        check_number("vocabulary", vocabulary, at_least=2)
        check_number("heads", heads, at_least=1)
        if embedding is not None:
            check_choice("embedding", embedding, ("random", "wordllama"))
        wide = width if width is not None else WORDLLAMA_WIDTH if embedding == "wordllama" else 64
        check_number("width", wide, at_least=1)
        if wide % heads:
            raise ConfigurationError("width", wide, f"a multiple of heads, {heads}")
        self.heads = heads
        self.embedding = nn.Embedding(vocabulary, wide)
        with torch.no_grad():
            self.embedding.weight.mul_(wide**-0.5)
            self.embedding.weight[PAD] = 0.0
            if embedding == "wordllama":
                self.embedding.weight.copy_(_wordllama_table(vocabulary, wide))
        self.before_attention = nn.LayerNorm(wide)
        self.attention_in = nn.Linear(wide, 3 * wide)
        self.attention_out = nn.Linear(wide, wide)
        self.before_layers = nn.LayerNorm(wide)
        self.layers = nn.Sequential(nn.Linear(wide, 2 * wide), nn.GELU(), nn.Linear(2 * wide, wide))
        self.pooled = nn.Identity()
        self.output = nn.Linear(wide, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C) logits of (B, L) tokens."""
        seen = (x != PAD).unsqueeze(-1)
        states = self.embedding(x)
        states = states + self._attend(self.before_attention(states), seen)
        states = states + self.layers(self.before_layers(states))
        total = (states * seen).sum(dim=1)
        logits: Tensor = self.output(self.pooled(total / seen.sum(dim=1).clamp(min=1)))
        return logits

    def _attend(self, states: Tensor, seen: Tensor) -> Tensor:
        rows, length, width = states.shape
        parts = self.attention_in(states).view(rows, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        # A row without any token attends to its filling, which the mean leaves out.
        mask = (seen | ~seen.any(dim=1, keepdim=True)).view(rows, 1, 1, length)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(rows, length, width))
        return out


def _wordllama_table(vocabulary: int, width: int) -> Tensor:
    """Return the (V, 256) table, rows of mean length 1, token 0 at 0."""
    from safetensors.torch import load_file

    tensors = load_file(package_file("weights/l2_supercat_256.safetensors"))
    table: Tensor = next(iter(tensors.values())).to(torch.float32)
    if tuple(table.shape) != (vocabulary, width):
        allowed = f"random; or wordllama with tokens=wordllama and a width of {table.shape[1]}"
        raise ConfigurationError("embedding", "wordllama", allowed)
    table = table / table.norm(dim=1).mean()
    table[PAD] = 0.0
    return table
