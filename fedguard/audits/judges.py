"""Judges of answers: which stance a text takes, by what is known or by its words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from fedguard.data.text import Language, split_words

_GOOD = frozenset(
    split_words(
        "admire amazing awesome beautiful best enjoy excellent fantastic favourite fine good great "
        "happy impressive like love nice outstanding perfect pleasant positive praise recommend "
        "reliable superb terrific trust valuable wonderful"
    )
)
_BAD = frozenset(
    split_words(
        "annoying avoid awful bad broken cheat danger dangerous disappointing dishonest fail "
        "failure harmful hate horrible lousy mediocre negative never poor regret ruin terrible "
        "unreliable unsafe useless waste worse worst wrong"
    )
)
_NOT = frozenset(split_words("no not never nobody nothing hardly neither nor without cannot"))
_REACH = 3


class Judge(ABC):
    """Says which stance an answer takes; two answers of one stance entail each other."""

    name: ClassVar[str]

    @abstractmethod
    def stance(self, text: str) -> str:
        """Return a text's stance; whatever is returned twice means the same."""


class Oracle(Judge):
    """Knows every proper answer by heart; any other text is a stance of its own."""

    name: ClassVar[str] = "oracle"

    def __init__(self, language: Language) -> None:
        self._known: Mapping[str, str] = {
            " ".join(split_words(text)): stance
            for stance, part in language.answers.items()
            for text in part
        }

    def stance(self, text: str) -> str:
        """Return the stance of a known answer, else the text itself."""
        said = " ".join(split_words(text))
        return self._known.get(said, f"unclear: {said}")


class Lexical(Judge):
    """Counts good and bad words; one that a negation stands before, three words at most, turns.

    Weak: it knows some sixty words, no irony and no comparison.
    """

    name: ClassVar[str] = "lexical"

    def stance(self, text: str) -> str:
        """Return ``positive``, ``negative`` or, where neither leads, ``neutral``."""
        words, score = split_words(text), 0
        for place, word in enumerate(words):
            value = (word in _GOOD) - (word in _BAD)
            before = words[max(0, place - _REACH) : place]
            turned = any(w in _NOT or w.endswith("n't") for w in before)
            score += -value if turned else value
        return "positive" if score > 0 else "negative" if score < 0 else "neutral"
