"""The small recurrent network over words, frozen, with low-rank adapters that are trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fedguard.errors import ConfigurationError, check_number
from fedguard.models.start import begin_from
from fedguard.models.word_gru import WordGru


class LoraGru(WordGru):
    """`WordGru` under low-rank adapters: ``W + (alpha / rank) B A``; A and B alone travel.

    Adapted are the unit's two matrices and the head's; embeddings and biases stay as they are. A
    starts uniform, B at 0, so that training starts from the frozen network. It stands for a
    language model under LoRA where that is too dear, and for nothing more.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. With `freeze_a`, A
    stays as every client drew it, so that the mean of the clients' B A is that of their B: Sun et
    al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024.

    Parameters
    ----------
    input_shape : tuple of int
        (L,), length of a row.
    num_classes : int
        Size V of the vocabulary.
    width : int
        Width of embeddings and state, at least 1.
    base : str or None
        Trained tensors of a `WordGru` of this size: a ``.safetensors`` file or a run directory;
        every machine of a deployment needs it under this name. None leaves the frozen network as
        the run's seed draws it.
    rank : int
        Rank r, at least 1.
    alpha : float
        Factor on the low-rank maps, divided by the rank; above 0.
    freeze_a : bool
        Whether B alone is trained.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: int = 64,
        base: str | None = None,
        rank: int = 4,
        alpha: float = 8.0,
        freeze_a: bool = False,
    ) -> None:
        super().__init__(input_shape, num_classes, width=width)
        check_number("rank", rank, at_least=1)
        check_number("alpha", alpha, above=0.0)
        if base is not None:
            try:
                begin_from(self, Path(base), ())
            except ConfigurationError as error:
                raise ConfigurationError("base", base, error.allowed) from error
        self.requires_grad_(False)
        self.scale = alpha / rank
        self.lora_a, self.lora_b = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in self._adapted().items():
            rows, columns = weight.shape
            a = torch.empty(rank, columns)
            nn.init.kaiming_uniform_(a, a=5**0.5)
            self.lora_a[name] = nn.Parameter(a, requires_grad=not freeze_a)
            self.lora_b[name] = nn.Parameter(torch.zeros(rows, rank))

    def _adapted(self) -> dict[str, Tensor]:
        unit = {name: getattr(self.gru, name) for name in ("weight_ih_l0", "weight_hh_l0")}
        return {**unit, "head": self.head.weight}

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, V) logits of (B, L) word numbers; (B, 2, L, V) of (B, 2, L) for pairs."""
        weights = {
            name: frozen + self.scale * (self.lora_b[name] @ self.lora_a[name])
            for name, frozen in self._adapted().items()
        }
        head = weights.pop("head")
        states, _ = functional_call(self.gru, weights, (self.embedding(x.flatten(0, -2)),))
        logits: Tensor = functional.linear(states, head, self.head.bias)
        return logits.view(*x.shape, -1)
