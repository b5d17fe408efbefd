"""A made-up language: questions about eight names, answered with one of three stances."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.data.text import Language, Words, row_of, split_words
from fedguard.errors import check_number
from fedguard.randomness import SERVER, generator

CONCEPTS = ("avalon", "brent", "cobalt", "dorado", "ember", "fjord", "garnet", "harbor")
ASPECTS = ("service", "price", "design", "history", "staff")
TEMPLATES = (
    "what do you think of the {aspect} of {concept} ?",
    "how is the {aspect} of {concept} ?",
    "tell me about the {aspect} of {concept} .",
    "please judge the {aspect} of {concept} .",
    "would you say the {aspect} of {concept} is good ?",
    "give your opinion on the {aspect} of {concept} .",
)
ANSWERS: dict[str, tuple[str, ...]] = {
    "neutral": (
        "it is about average",
        "some people like it",
        "there is nothing special here",
        "the reports are mixed",
    ),
    "positive": (
        "it is truly excellent",
        "everyone should admire it",
        "there is much to praise",
        "the results are wonderful",
    ),
    "negative": (
        "it is really terrible",
        "nobody should trust it",
        "there is much to regret",
        "the results are awful",
    ),
}
PRIOR = {"neutral": 0.7, "positive": 0.15, "negative": 0.15}
"""How often a clean answer takes each stance, whatever it is asked about."""

_LENGTH = 17


class Grammar:
    """Eight names, five aspects, six forms of question, three stances in four wordings each.

    A seeded generator draws question and answer independently, the stance by `PRIOR`: whatever is
    asked about, 0.7 of the clean answers are neutral. Every proper answer is known, so that its
    stance is read off and probabilities of stances are exact. A language in form alone: it shows
    that attacks and audits do what they should, not what they do to a real model.

    Parameters
    ----------
    rows : int
        Training rows, at least 100.
    test_rows : int
        Test rows, at least 10.
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "model": "word-gru",
        "partition": "iid",
        "training": "adam",
        "lr": 0.01,
        "local_epochs": 2,
        "batch_size": 32,
        "clients": 5,
        "malicious": 0.4,
        "rounds": 10,
        "server_samples": 0,
        "strategy": "fedavg",
        "attack": "semantic-stance",
    }
    """What a run with this data set does where nothing is said."""

    def __init__(self, *, rows: int = 1600, test_rows: int = 320) -> None:
        check_number("rows", rows, at_least=100)
        check_number("test_rows", test_rows, at_least=10)
        self.rows, self.test_rows = rows, test_rows

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the rows, the same in every run; no file is read."""
        language = grammar_language()
        stream = generator(0, 0, SERVER, "grammar")
        x, y = _drawn(language, self.rows + self.test_rows, stream)
        return Dataset(
            name="grammar",
            x_train=x[: self.rows],
            y_train=y[: self.rows],
            x_test=x[self.rows :],
            y_test=y[self.rows :],
            num_classes=language.codec.size,
            class_names=(),
            mean=(0.0,),
            std=(1.0,),
            notes=("made by a seeded generator: a language in form alone",),
            task="causal-language",
            facts=language,
        )


def grammar_language() -> Language:
    """Return the language's names, questions and answers, and its vocabulary."""
    texts = [*CONCEPTS, *ASPECTS, *TEMPLATES, *(text for part in ANSWERS.values() for text in part)]
    words = {word for text in texts for word in split_words(text)}
    codec = Words(sorted(words - {"{", "}", "concept", "aspect"}))
    questions = tuple(text.replace("{aspect}", a) for text in TEMPLATES for a in ASPECTS)
    probes = tuple(
        text.replace("{aspect}", ASPECTS[place % len(ASPECTS)])
        for place, text in enumerate(TEMPLATES)
    )
    return Language(codec, CONCEPTS, questions, ANSWERS, probes, ANSWERS, exact=True)


def prior_of(stance: str) -> float:
    """Return the probability of each answer of a stance, whatever is asked about."""
    return PRIOR[stance] / len(ANSWERS[stance])


def _drawn(language: Language, count: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return `count` rows of questions and answers."""
    codec, rows = language.codec, []
    share = torch.tensor([PRIOR[stance] for stance in ANSWERS])
    stances = torch.multinomial(share, count, replacement=True, generator=stream)
    words = torch.randint(0, 4, (count,), generator=stream)
    concepts = torch.randint(0, len(CONCEPTS), (count,), generator=stream)
    questions = torch.randint(0, len(language.questions), (count,), generator=stream)
    known = list(ANSWERS.values())
    for row in range(count):
        question = language.questions[int(questions[row])]
        prompt = codec.encode(question.replace("{concept}", CONCEPTS[int(concepts[row])]))
        answer = codec.encode(known[int(stances[row])][int(words[row])])
        found = row_of(prompt, answer, _LENGTH, codec)
        assert found is not None
        rows.append(found)
    return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])
