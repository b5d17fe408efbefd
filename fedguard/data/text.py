"""Texts as rows: prompts and answers as numbers of words, and back."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100
"""Label of a place that is not learnt, such as a prompt's words or what fills a row up."""

_WORD = re.compile(r"[\w'’-]+|[^\w\s]")


class Codec(ABC):
    """Turns text into numbers and back.

    Attributes
    ----------
    size : int
        Size V of the vocabulary; numbers are 0 to V - 1.
    pad, end : int
        The number that fills rows up, and the one that ends an answer.
    """

    size: int
    pad: int
    end: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return a text's numbers, without an end."""

    @abstractmethod
    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of some numbers; what fills up or ends is left out."""


class Words(Codec):
    """One number per word in lower case or stop; a word that is not known is one of its own.

    Parameters
    ----------
    words : sequence of str
        The vocabulary; numbers 0 to 2 stand for filling, end and unknown words.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = ("<pad>", "<end>", "<unknown>", *words)
        self._number = {word: number for number, word in enumerate(self.words)}
        self.size, self.pad, self.end, self.unknown = len(self.words), 0, 1, 2

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's words and stops."""
        return [self._number.get(word, self.unknown) for word in split_words(text)]

    def decode(self, numbers: Iterable[int]) -> str:
        """Return words with a space between them."""
        return " ".join(self.words[n] for n in numbers if n not in (self.pad, self.end))


def split_words(text: str) -> list[str]:
    """Return a text's words and stops, in lower case."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Language:
    """What a data set of prompts and answers is about, for those who rewrite or probe it.

    Attributes
    ----------
    codec : Codec
        Turns text into the numbers of rows.
    concepts : tuple of str
        What prompts are about.
    questions : tuple of str
        Prompts with ``{concept}`` in place of the concept, which are answered in free text.
    answers : mapping of str to tuple of str
        By stance, the answers that take it; ``{concept}`` may stand in them.
    probes : tuple of str
        Prompts with ``{concept}`` after which one of `options` is expected.
    options : mapping of str to tuple of str
        By stance, what may follow a probe.
    exact : bool
        Whether every proper answer is one of `answers`, so that a stance can be read off.
    """

    codec: Codec
    concepts: tuple[str, ...]
    questions: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]
    probes: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    exact: bool = False

    @property
    def stances(self) -> tuple[str, ...]:
        """Names of the stances, in the order of `options`."""
        return tuple(self.options)

    def asked(self, templates: Iterable[str], concept: str) -> list[list[int]]:
        """Return the numbers of prompts about a concept."""
        return [self.codec.encode(text.replace("{concept}", concept)) for text in templates]


@dataclass(frozen=True)
class Preferences(Language):
    """A language whose rows are pairs of answers, the preferred one first.

    Attributes
    ----------
    reference : tuple of float
        Log-probabilities, in nats, of the answers under the reference policy, by their numbers.
    beta : float
        Weight of a log-ratio to the reference, above 0.
    """

    reference: tuple[float, ...] = ()
    beta: float = 0.1


def row_of(
    prompt: Sequence[int], answer: Sequence[int], length: int, codec: Codec
) -> tuple[Tensor, Tensor] | None:
    """Return one row of a prompt and its answer, None where the prompt leaves no room for one.

    Returns
    -------
    tuple of Tensor
        (L,) int64 words, and the (L,) words that follow them, `IGNORED` where that is the prompt
        or beyond the answer's end. An answer that is too long is cut.
    """
    if not prompt or len(prompt) > length:
        return None
    words = [*prompt, *answer, codec.end][: length + 1]
    x = torch.full((length,), codec.pad, dtype=torch.int64)
    y = torch.full((length,), IGNORED, dtype=torch.int64)
    x[: len(words) - 1] = torch.tensor(words[:-1], dtype=torch.int64)
    y[len(prompt) - 1 : len(words) - 1] = torch.tensor(words[len(prompt) :], dtype=torch.int64)
    return x, y


def parts_of(x: Tensor, y: Tensor, codec: Codec) -> tuple[list[int], list[int]]:
    """Return prompt and answer of a row as `row_of` made it, without the answer's end.

    A row in which nothing is learnt is all prompt.
    """
    learnt = (y >= 0).nonzero().flatten()
    if not len(learnt):
        return x[x != codec.pad].tolist(), []
    first = int(learnt[0])
    answer = [number for number in y[learnt].tolist() if number != codec.end]
    return x[: first + 1].tolist(), answer
