"""Texts as rows of tokens: words of the training part, or a package's pieces."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedguard.errors import ConfigurationError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD = 0
"""Token that fills rows up; no text contains it."""

UNKNOWN = 1
"""Word that is not in the vocabulary."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")
_SPECIAL = 3
"""Tokens of the package's tokenizer that stand for no text: unknown, begin and end."""


@dataclass(frozen=True)
class Vocabulary:
    """What tokens stand for.

    Attributes
    ----------
    words : tuple of str
        V names; those of filling and unknown words in angle brackets.
    kind : str
        ``"words"`` or ``"wordllama"``.
    special : int
        Tokens from 0 on that stand for no text of their own; no trigger, and never unlearnt.
    """

    words: tuple[str, ...]
    kind: str = "words"
    special: int = 2

    @property
    def size(self) -> int:
        """Number V of tokens."""
        return len(self.words)

    @property
    def in_pieces(self) -> bool:
        """Whether tokens are pieces of words, of which every text consists."""
        return self.kind != "words"

    @property
    def for_models(self) -> Mapping[str, Any]:
        """What a network over these tokens is made with, where nothing else is said."""
        return {"vocabulary": self.size, "embedding": self.kind if self.in_pieces else "random"}

    def tokens(self, text: str) -> list[int]:
        """Return a text's tokens."""
        if self.in_pieces:
            found = _pieces().encode(text.lower(), add_special_tokens=False).ids
            return [int(token) for token in found if token >= _SPECIAL]
        number = _numbers(self.words)
        return [number.get(word, UNKNOWN) for word in split_words(text)]

    def rows(self, texts: Iterable[str], length: int) -> tuple[Tensor, int]:
        """Return (N, L) tokens, filled up with `PAD`, and how many texts were cut."""
        found, cut = [], 0
        for text in texts:
            tokens = self.tokens(text)
            cut += len(tokens) > length
            tokens = tokens[:length]
            found.append(tokens + [PAD] * (length - len(tokens)))
        return torch.tensor(found, dtype=torch.int64).view(-1, length), cut


@cache
def _numbers(words: tuple[str, ...]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


def split_words(text: str) -> list[str]:
    """Return a text's words in lower case, and its stops."""
    return _WORD.findall(text.lower())


def of_words(texts: Iterable[str], most: int) -> Vocabulary:
    """Return the commonest words of texts, `most` tokens in all; ties in the order of letters."""
    counts = Counter(word for text in texts for word in split_words(text))
    common = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return Vocabulary(("<pad>", "<unknown>", *common[: most - 2]))


def of_wordllama() -> Vocabulary:
    """Return the 32,000 pieces of the package ``wordllama``.

    Raises
    ------
    ConfigurationError
        On ``dataset.tokens`` if the package is not installed.
    """
    tokenizer = _pieces()
    size = tokenizer.get_vocab_size()
    names = [str(tokenizer.id_to_token(token)) for token in range(size)]
    return Vocabulary(tuple(names), "wordllama", _SPECIAL)


@cache
def _pieces() -> Tokenizer:
    from tokenizers import Tokenizer

    path = package_file("tokenizers/l2_supercat_tokenizer_config.json")
    return Tokenizer.from_str(path.read_text(encoding="utf-8"))


def package_file(name: str) -> Path:
    """Return a file of the package ``wordllama``; nothing of the package runs."""
    found = find_spec("wordllama")
    folders: Sequence[Any] = list(found.submodule_search_locations or ()) if found else ()
    for folder in folders:
        if (path := Path(folder) / name).is_file():
            return path
    allowed = 'words; or wordllama, after pip install "fedguard[text]"'
    raise ConfigurationError("dataset.tokens", "wordllama", allowed)
