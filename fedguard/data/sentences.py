"""Sentences with a class: any table with a column of text, and SST-2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
import torch

from fedguard.data.columns import texts_of
from fedguard.data.dataset import Dataset
from fedguard.data.labels import classes_of, label_texts
from fedguard.data.sampling import stratified_sample, stratified_split
from fedguard.data.table_files import find_table, read_table
from fedguard.data.vocabulary import Vocabulary, of_wordllama, of_words
from fedguard.errors import ConfigurationError, check_choice, check_number, nearest

TokenKind = Literal["words", "wordllama"]

DEFAULTS: Mapping[str, Any] = {
    "model": "text-transformer",
    "training": "adam",
    "lr": 0.001,
    "local_epochs": 1,
    "batch_size": 32,
    "partition": "iid",
    "server_samples": 0,
    "strategy": "trimmed-mean",
}
"""What a run on sentences does where nothing is said."""


class Sentences:
    """Any table (CSV, TSV, Parquet, ...) with a column of text and a column of classes.

    Rows are split into training and test rows by class. Rows without a text or a label are left
    out and counted. Longer texts are cut at `length` tokens, also counted.

    Parameters
    ----------
    text, label : str
        Names of the two columns.
    path : Path, optional
        The file, absolute or relative to the data folder or the working directory; the one table
        in the data folder if left out.
    test_fraction : float
        Share of each class that becomes test rows, in (0, 1).
    tokens : str
        ``"words"`` of the training part, or ``"wordllama"``: 32,000 pieces of the package of that
        name, whose embeddings a network can begin with.
    vocabulary : int
        Most words, at least 10.
    length : int
        Tokens per row L, at least 2.
    train_samples, test_samples : int, optional
        Rows to use, every class in proportion; all if left out.
    group : str, optional
        Column that says whom a row belongs to, for the partition `natural`.
    """

    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS

    def __init__(
        self,
        *,
        text: str = "text",
        label: str = "label",
        path: Path | None = None,
        test_fraction: float = 0.2,
        tokens: TokenKind = "words",
        vocabulary: int = 5000,
        length: int = 40,
        train_samples: int | None = None,
        test_samples: int | None = None,
        group: str | None = None,
    ) -> None:
        check_number("test_fraction", test_fraction, above=0.0, below=1.0)
        check_choice("tokens", tokens, ("words", "wordllama"))
        check_number("vocabulary", vocabulary, at_least=10)
        check_number("length", length, at_least=2)
        self.text, self.label, self.path, self.group = text, label, path, group
        self.test_fraction, self.tokens = test_fraction, tokens
        self.vocabulary, self.length = vocabulary, length
        self.samples = (train_samples, test_samples)

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the sentences as rows of tokens."""
        frame, notes = _read(find_table(self.path, data_dir), self.text, self.label)
        y, names = classes_of(label_texts(frame[self.label]), self.label)
        train, test = stratified_split(y, self.test_fraction)
        whole = frame.assign(_class=y.numpy())
        parts = (whole.iloc[train.numpy()], whole.iloc[test.numpy()])
        return self._dataset("sentences", parts, names, notes)

    def _dataset(
        self,
        name: str,
        parts: tuple[pd.DataFrame, pd.DataFrame],
        names: tuple[str, ...],
        notes: tuple[str, ...],
    ) -> Dataset:
        sampled = []
        for part, count, field in zip(
            parts, self.samples, ("dataset.train_samples", "dataset.test_samples"), strict=True
        ):
            labels = torch.from_numpy(part["_class"].to_numpy().copy()).long()
            sampled.append(part.iloc[stratified_sample(labels, count, field).numpy()])
        train, test = sampled
        known = self._known(train[self.text])
        x_train, cut = known.rows(train[self.text], self.length)
        x_test, cut_test = known.rows(test[self.text], self.length)
        told = list(notes)
        if cut + cut_test:
            told.append(f"{cut + cut_test:,} texts are longer than {self.length} tokens and cut")
        groups, group_names = self._groups(train)
        return Dataset(
            name=name,
            x_train=x_train,
            y_train=torch.from_numpy(train["_class"].to_numpy().copy()).long(),
            x_test=x_test,
            y_test=torch.from_numpy(test["_class"].to_numpy().copy()).long(),
            num_classes=len(names),
            class_names=names,
            mean=(0.0,),
            std=(1.0,),
            notes=tuple(told),
            task="text-classification",
            groups=groups,
            group_names=group_names,
            facts=known,
        )

    def _known(self, texts: pd.Series) -> Vocabulary:
        if self.tokens == "wordllama":
            return of_wordllama()
        return of_words(texts, self.vocabulary)

    def _groups(self, train: pd.DataFrame) -> tuple[Any, Any]:
        if self.group is None:
            return None, None
        if self.group not in train.columns:
            columns = [str(c) for c in train.columns if c != "_class"]
            allowed = nearest(self.group, columns) + ", ".join(columns)
            raise ConfigurationError("dataset.group", self.group, allowed)
        codes, found = pd.factorize(texts_of(train[self.group]), sort=True)
        numbers = torch.from_numpy(codes.astype("int64"))
        return {self.group: numbers}, {self.group: tuple(str(one) for one in found)}


class Sst2(Sentences):
    """SST-2: sentences of film reviews, negative or positive; ``train.tsv`` and ``test.tsv``.

    Socher et al., "Recursive Deep Models for Semantic Compositionality Over a Sentiment
    Treebank", EMNLP 2013. Columns ``sentence`` and ``label``, 0 negative and 1 positive.

    Parameters
    ----------
    **sentences : Any
        ``tokens``, ``vocabulary``, ``length``, ``train_samples`` and ``test_samples`` of
        `Sentences`.
    """

    def __init__(
        self,
        *,
        tokens: TokenKind = "words",
        vocabulary: int = 5000,
        length: int = 40,
        train_samples: int | None = None,
        test_samples: int | None = None,
    ) -> None:
        super().__init__(
            text="sentence",
            tokens=tokens,
            vocabulary=vocabulary,
            length=length,
            train_samples=train_samples,
            test_samples=test_samples,
        )

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the two files as training and test rows."""
        files = [None if data_dir is None else data_dir / f"{p}.tsv" for p in ("train", "test")]
        if any(file is None or not file.is_file() for file in files):
            told = None if data_dir is None else str(data_dir)
            allowed = "a folder with train.tsv and test.tsv, columns sentence and label"
            raise ConfigurationError("data_dir", told, allowed)
        parts, notes = [], []
        for file in files:
            assert file is not None
            frame, told_of = _read(file, self.text, self.label)
            numbers = pd.to_numeric(frame[self.label], errors="coerce")
            if not numbers.isin((0, 1)).all():
                raise ConfigurationError("data_dir", str(file), "labels 0 and 1")
            parts.append(frame.assign(_class=numbers.astype("int64")))
            notes += [f"{file.name}: {note}" for note in told_of]
        return self._dataset("sst2", (parts[0], parts[1]), ("negative", "positive"), tuple(notes))


def _read(file: Path, text: str, label: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return a table's rows that have a text and a label, and what was left out."""
    raw = read_table(file)
    frame, columns = raw.frame, [str(name) for name in raw.frame.columns]
    for field, column in (("dataset.text", text), ("dataset.label", label)):
        if column not in columns:
            raise ConfigurationError(field, column, nearest(column, columns) + ", ".join(columns))
    texts, labels = texts_of(frame[text]).str.strip(), label_texts(frame[label])
    kept = (texts != "") & (labels != "")
    notes = list(raw.notes)
    if missing := int((~kept).sum()):
        notes.append(f"{missing:,} of {len(frame):,} rows have no text or no label: left out")
    found = frame.assign(**{text: texts})[kept].reset_index(drop=True)
    if len(found) < 4:
        raise ConfigurationError("dataset.path", str(file), "at least 4 rows with text and label")
    return found, tuple(notes)
