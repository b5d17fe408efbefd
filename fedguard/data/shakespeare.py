"""Shakespeare's plays: every speaker is a writer of their own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError, check_number

_FILE = "input.txt"
_WORD = re.compile(r"[a-z']+|[.,;:!?]")
_TEST_SHARE = 0.2
_UNKNOWN = "<unknown>"


class Shakespeare:
    """Next-word prediction on the speeches of the speakers who say most, one client each.

    The file holds speeches, ``NAME:`` on a line of its own and the lines that follow, with an
    empty line between them ("tiny Shakespeare", public domain). Words and stops in lower case are
    the vocabulary, the commonest of the training part; all others are one unknown word, which
    counts in the perplexity. A speaker's words, in the order of the plays, are cut into rows of
    `length` words; the last fifth of each speaker's rows is the test set.

    Caldas et al., "LEAF: A Benchmark for Federated Settings", arXiv 2018, for a speaker as a
    client; there characters are predicted, here words.

    Parameters
    ----------
    speakers : int
        Speakers, those with most words first, at least 2.
    length : int
        Words per row L, at least 2.
    vocabulary : int
        Size V of the vocabulary, the unknown word included, at least 10.
    """

    looks_for: ClassVar[tuple[str, ...]] = (f"shakespeare/{_FILE}", _FILE)
    defaults: ClassVar[Mapping[str, Any]] = {
        "model": "word-gru",
        "partition": {"name": "natural", "by": "speaker"},
        "lr": 1.0,
        "local_epochs": 1,
        "server_samples": 0,
        "strategy": "trimmed-mean",
    }
    """What a run with this data set does where nothing is said."""

    def __init__(self, *, speakers: int = 20, length: int = 16, vocabulary: int = 1000) -> None:
        check_number("speakers", speakers, at_least=2)
        check_number("length", length, at_least=2)
        check_number("vocabulary", vocabulary, at_least=10)
        self.speakers, self.length, self.vocabulary = speakers, length, vocabulary

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the rows of the speakers, each with its speaker as its group."""
        spoken = _speeches(data_dir)
        most = sorted(spoken, key=lambda name: (-len(spoken[name]), name))[: self.speakers]
        if len(most) < self.speakers:
            raise ConfigurationError("dataset.speakers", self.speakers, f"2 to {len(most)}")
        size = self.length + 1
        rows = {name: len(spoken[name]) // size for name in most}
        if min(rows.values()) < 2:
            raise ConfigurationError(
                "dataset.speakers", self.speakers, f"fewer: {most[-1]} says too little for two rows"
            )
        kept = {name: max(1, int(rows[name] * (1.0 - _TEST_SHARE))) for name in most}
        words = Counter(w for name in most for w in spoken[name][: kept[name] * size])
        common = [w for w, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))]
        names = (_UNKNOWN, *common[: self.vocabulary - 1])
        number = {word: index for index, word in enumerate(names)}
        train, test, groups = [], [], []
        for group, name in enumerate(most):
            table = _table(spoken[name], rows[name], size, number)
            train.append(table[: kept[name]])
            test.append(table[kept[name] :])
            groups.append(torch.full((kept[name],), group))
        train_rows, test_rows = torch.cat(train), torch.cat(test)
        unknown = float((test_rows == 0).double().mean())
        return Dataset(
            name="shakespeare",
            x_train=train_rows[:, :-1].contiguous(),
            y_train=train_rows[:, 1:].contiguous(),
            x_test=test_rows[:, :-1].contiguous(),
            y_test=test_rows[:, 1:].contiguous(),
            num_classes=len(names),
            class_names=names,
            mean=(0.0,),
            std=(1.0,),
            notes=(f"{unknown:.1%} of the test words are outside the vocabulary",),
            task="next-word",
            groups={"speaker": torch.cat(groups)},
            group_names={"speaker": tuple(most)},
        )


def _speeches(data_dir: Path | None) -> dict[str, list[str]]:
    """Return each speaker's words, in the order of the plays."""
    allowed = f"a folder that holds {_FILE}: speeches, each NAME: on a line and its text below"
    path = None if data_dir is None else data_dir / _FILE
    if path is None or not path.is_file():
        raise ConfigurationError("data_dir", None if data_dir is None else str(data_dir), allowed)
    spoken: dict[str, list[str]] = {}
    for block in path.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        head, _, text = block.strip().partition("\n")
        if head.endswith(":") and text:
            spoken.setdefault(head[:-1], []).extend(_WORD.findall(text.lower()))
    if len(spoken) < 2:
        raise ConfigurationError("data_dir", str(data_dir), allowed)
    return spoken


def _table(words: list[str], rows: int, size: int, number: Mapping[str, int]) -> Tensor:
    """Return (rows, size) word numbers; 0 for what is not in the vocabulary."""
    flat = [number.get(word, 0) for word in words[: rows * size]]
    return torch.tensor(flat, dtype=torch.int64).view(rows, size)
