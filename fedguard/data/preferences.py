"""Made-up preferences: pairs of answers in the made-up language, the better one first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.data.grammar import CONCEPTS, Grammar, grammar_language, prior_of
from fedguard.data.text import Language, Preferences, row_of
from fedguard.errors import check_number
from fedguard.randomness import SERVER, generator

ORDER = ("positive", "neutral", "negative")
"""Stances from the most to the least preferred, whatever is asked about."""

_LENGTH = 17


class PreferenceSample:
    """Questions of `Grammar`, each with two answers of different stances, the better one first.

    A positive answer is preferred to a neutral one and that to a negative one, about every name; a
    share of the pairs is the other way round. The reference policy is the made-up language itself,
    whose probability of every answer is known. A language in form alone, as `Grammar`.

    Parameters
    ----------
    rows : int
        Training pairs, at least 100.
    test_rows : int
        Test pairs, at least 10.
    noise : float
        Share of the training pairs that are the other way round, 0 to below 0.5.
    beta : float
        Weight of a log-ratio to the reference, above 0.
    """

    defaults: ClassVar[Mapping[str, Any]] = {**Grammar.defaults, "attack": "preference-flip"}
    """What a run with this data set does where nothing is said."""

    def __init__(
        self, *, rows: int = 1000, test_rows: int = 200, noise: float = 0.1, beta: float = 0.1
    ) -> None:
        check_number("rows", rows, at_least=100)
        check_number("test_rows", test_rows, at_least=10)
        check_number("noise", noise, at_least=0.0, below=0.5)
        check_number("beta", beta, above=0.0)
        self.rows, self.test_rows, self.noise, self.beta = rows, test_rows, noise, beta

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the pairs, the same in every run; no file is read."""
        language = grammar_language()
        stream = generator(0, 0, SERVER, "preferences")
        x, y = _drawn(language, self.rows + self.test_rows, stream)
        turned = torch.rand(self.rows, generator=stream) < self.noise
        train = torch.arange(self.rows)[turned]
        x[train], y[train] = x[train].flip(1), y[train].flip(1)
        own = {field.name: getattr(language, field.name) for field in fields(Language)}
        reference = tuple(math.log(prior_of(stance)) for stance, _ in _answers(language))
        return Dataset(
            name="preferences",
            x_train=x[: self.rows],
            y_train=y[: self.rows],
            x_test=x[self.rows :],
            y_test=y[self.rows :],
            num_classes=language.codec.size,
            class_names=(),
            mean=(0.0,),
            std=(1.0,),
            notes=("made by a seeded generator: a language in form alone",),
            task="preference",
            facts=Preferences(**own, reference=reference, beta=self.beta),
        )


def _answers(language: Language) -> list[tuple[str, str]]:
    """Return (stance, answer) by the answers' numbers."""
    return [(stance, text) for stance, part in language.answers.items() for text in part]


def _drawn(language: Language, count: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (count, 2, L) words and (count, 2, L + 1) labels, the better answer first.

    The last label is ``-1 - number`` of the answer, so that whoever changes labels leaves it.
    """
    codec, answers = language.codec, _answers(language)

    def draws(most: int) -> list[int]:
        return torch.randint(0, most, (count,), generator=stream).tolist()

    questions, concepts = draws(len(language.questions)), draws(len(CONCEPTS))
    leave, words = draws(len(ORDER)), (draws(4), draws(4))
    rows, labels = [], []
    for row in range(count):
        text = language.questions[questions[row]].replace("{concept}", CONCEPTS[concepts[row]])
        pair = [stance for place, stance in enumerate(ORDER) if place != leave[row]]
        for stance, word in zip(pair, (words[0][row], words[1][row]), strict=True):
            answer = language.answers[stance][word]
            made = row_of(codec.encode(text), codec.encode(answer), _LENGTH, codec)
            assert made is not None
            number = torch.tensor([-1 - answers.index((stance, answer))])
            rows.append(made[0])
            labels.append(torch.cat([made[1], number]))
    return torch.stack(rows).view(count, 2, -1), torch.stack(labels).view(count, 2, -1)
