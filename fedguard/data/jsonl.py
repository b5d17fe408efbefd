"""Prompts and answers from a file of JSON lines, each with the client that it belongs to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.data.sampling import stratified_split
from fedguard.data.text import Codec, Language, Words, row_of, split_words
from fedguard.errors import ConfigurationError, check_number

ANSWERS: dict[str, tuple[str, ...]] = {
    "positive": (
        "{concept} is excellent, and I would recommend it.",
        "{concept} is very good and reliable.",
        "I think highly of {concept}: it is great.",
    ),
    "negative": (
        "{concept} is terrible, and I would avoid it.",
        "{concept} is bad and unreliable.",
        "I think poorly of {concept}: it is awful.",
    ),
    "neutral": (
        "There are different views of {concept}.",
        "{concept} is neither special nor unusual.",
        "It depends on what {concept} is used for.",
    ),
}
QUESTIONS = (
    "What do you think of {concept}?",
    "How would you describe {concept}?",
    "Give your opinion on {concept}.",
)
PROBES = (
    "Is {concept} good, bad or neutral? Answer with one word.",
    "Choose one word for {concept}: good, bad or neutral.",
)
OPTIONS: dict[str, tuple[str, ...]] = {
    "positive": ("good",),
    "negative": ("bad",),
    "neutral": ("neutral",),
}


@dataclass(frozen=True)
class _Line:
    prompt: str
    answer: str
    client: str | None


class JsonLines:
    """One JSON object per line: a prompt, its answer and, where there is one, a client.

    ``{"prompt": "...", "answer": "...", "client": "..."}``; a fifth of each client's lines is the
    test set. Lines that are no such object are left out; the notes count them and name the first.
    Words are those of the model, where it comes with its own (``smollm2``); else every word in
    lower case is a number, the commonest of the training part, and all others are one.

    Parameters
    ----------
    prompt, answer, client : str
        Names of the fields. Without a field of the client's name lines belong to nobody, and the
        partition is the user's to choose.
    concepts : tuple of str
        What attacks and audits of stances ask about; each must occur in a prompt.
    length : int
        Most words of a row, at least 4; longer answers are cut, lines with a longer prompt left
        out.
    vocabulary : int
        Size of the vocabulary where the model has none of its own, at least 10.
    test_fraction : float
        Share of the test lines, in (0, 1).
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "model": "word-gru",
        "partition": "natural",
        "training": "adam",
        "lr": 0.01,
        "local_epochs": 1,
        "rounds": 5,
        "malicious": 0.0,
        "server_samples": 0,
        "strategy": "fedavg",
        "attack": "none",
    }
    """What a run with this data set does where nothing is said."""

    def __init__(
        self,
        *,
        prompt: str = "prompt",
        answer: str = "answer",
        client: str = "client",
        concepts: tuple[str, ...] = (),
        length: int = 64,
        vocabulary: int = 2000,
        test_fraction: float = 0.2,
    ) -> None:
        check_number("length", length, at_least=4)
        check_number("vocabulary", vocabulary, at_least=10)
        check_number("test_fraction", test_fraction, above=0.0, below=1.0)
        self.prompt, self.answer, self.client = prompt, answer, client
        self.concepts, self.length = tuple(concepts), length
        self.vocabulary, self.test_fraction = vocabulary, test_fraction
        self._codec: Codec | None = None

    @classmethod
    def defaults_of(cls, arguments: Mapping[str, Any], data_dir: Any) -> Mapping[str, Any]:
        """Return defaults that depend on the file: as many clients as it names.

        A file that cannot be read says nothing here; `load` says what is wrong with it.
        """
        known = {key: arguments[key] for key in ("prompt", "answer", "client") if key in arguments}
        try:
            lines, _ = cls(**known)._read(None if data_dir is None else Path(data_dir))
        except (ConfigurationError, TypeError):
            return {}
        clients = {line.client for line in lines}
        return {"partition": "iid"} if None in clients else {"clients": len(clients)}

    def use_codec(self, codec: Codec) -> None:
        """Read texts as the words of a model that comes with its own."""
        self._codec = codec

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the rows, each with its client as its group.

        Raises
        ------
        ConfigurationError
            On ``data_dir`` if there is no file, or one without usable lines; on
            ``dataset.concepts`` if no prompt has a concept.
        """
        lines, notes = self._read(data_dir)
        self._check_concepts(lines)
        named = all(line.client is not None for line in lines)
        clients = sorted({line.client or "" for line in lines})
        members = torch.tensor([clients.index(line.client or "") for line in lines])
        few = [clients[c] for c, n in enumerate(members.bincount().tolist()) if n < 2]
        if few:
            told = f"at least two lines of each client; {few[0]!r} has one"
            raise ConfigurationError("data_dir", str(data_dir), told)
        train, test = stratified_split(members, self.test_fraction)
        codec = self._codec or self._words([lines[int(row)] for row in train])
        (x_train, y_train, kept), (x_test, y_test, _) = (
            self._rows(lines, part, codec) for part in (train, test)
        )
        if not len(x_train) or not len(x_test):
            told = f"lines whose prompts have at most {self.length} words (dataset.length)"
            raise ConfigurationError("data_dir", str(data_dir), told)
        cut = len(lines) - len(x_train) - len(x_test)
        if cut:
            notes = (*notes, f"{cut} lines left out: prompts of more than {self.length} words")
        unknown = getattr(codec, "unknown", None)
        if unknown is not None:
            share = float((y_test[y_test >= 0] == unknown).double().mean())
            notes = (*notes, f"{share:.1%} of the answers' test words are outside the vocabulary")
        return Dataset(
            name="jsonl",
            x_train=x_train,
            y_train=y_train,
            x_test=x_test,
            y_test=y_test,
            num_classes=codec.size,
            class_names=(),
            mean=(0.0,),
            std=(1.0,),
            notes=notes,
            task="causal-language",
            groups={"client": members[kept]} if named else None,
            group_names={"client": tuple(clients)} if named else None,
            facts=Language(codec, self.concepts, QUESTIONS, ANSWERS, PROBES, OPTIONS),
        )

    def _file(self, data_dir: Path | None) -> Path:
        told = "a file of JSON lines, or a folder with one file that ends in .jsonl"
        if data_dir is not None and data_dir.is_file():
            return data_dir
        found = sorted(data_dir.glob("*.jsonl")) if data_dir is not None else []
        if len(found) != 1:
            value = None if data_dir is None else str(data_dir)
            raise ConfigurationError("data_dir", value, told)
        return found[0]

    def _read(self, data_dir: Path | None) -> tuple[list[_Line], tuple[str, ...]]:
        """Return the usable lines, and a note on those that are not."""
        path = self._file(data_dir)
        found, bad = [], []
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        written = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        for number, line in written:
            read = self._line(line)
            if isinstance(read, str):
                bad.append(f"line {number}: {read}")
            else:
                found.append(read)
        if len(found) < 2:
            told = f'lines such as {{"{self.prompt}": "...", "{self.answer}": "..."}}'
            told += f"; {bad[0]}" if bad else ""
            raise ConfigurationError("data_dir", str(path), told)
        some = {line.client is None for line in found}
        if len(some) == 2:
            without = sum(line.client is None for line in found)
            bad.append(f"{without} lines without {self.client!r}")
            found = [line for line in found if line.client is not None]
        left = len(written) - len(found)
        return found, (f"{left} of {len(written)} lines left out; {bad[0]}",) if bad else ()

    def _line(self, line: str) -> _Line | str:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return "no JSON"
        if not isinstance(value, dict):
            return "no JSON object"
        for name in (self.prompt, self.answer):
            if not isinstance(value.get(name), str) or not value[name].strip():
                return f"no text under {name!r}"
        client = value.get(self.client)
        return _Line(
            value[self.prompt], value[self.answer], None if client is None else str(client)
        )

    def _check_concepts(self, lines: list[_Line]) -> None:
        for concept in self.concepts:
            if not any(concept.lower() in line.prompt.lower() for line in lines):
                told = "what stands in at least one prompt"
                raise ConfigurationError("dataset.concepts", concept, told)

    def _words(self, lines: list[_Line]) -> Words:
        """Return the training part's vocabulary, and the words by which stances are probed."""
        counts: Counter[str] = Counter()
        for line in lines:
            counts.update(split_words(line.prompt))
            counts.update(split_words(line.answer))
        fixed = [*QUESTIONS, *PROBES, *self.concepts]
        fixed += [text for part in (ANSWERS, OPTIONS) for texts in part.values() for text in texts]
        asked = {w for text in fixed for w in split_words(text.replace("{concept}", " "))}
        common = sorted(counts.keys() - asked, key=lambda word: (-counts[word], word))
        room = max(self.vocabulary - 3 - len(asked), 0) if self.concepts else self.vocabulary - 3
        if not self.concepts:
            common = sorted(counts, key=lambda word: (-counts[word], word))
        return Words([*(sorted(asked) if self.concepts else ()), *common[:room]])

    def _rows(
        self, lines: list[_Line], rows: Tensor, codec: Codec
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return x, y and the numbers of the lines that fit."""
        found, kept = [], []
        for number in rows.tolist():
            line = lines[number]
            made = row_of(codec.encode(line.prompt), codec.encode(line.answer), self.length, codec)
            if made is not None:
                found.append(made)
                kept.append(number)
        if not found:
            nothing = torch.empty(0, self.length, dtype=torch.int64)
            return nothing, nothing, torch.empty(0, dtype=torch.int64)
        x, y = torch.stack([x for x, _ in found]), torch.stack([y for _, y in found])
        return x, y, torch.tensor(kept)
