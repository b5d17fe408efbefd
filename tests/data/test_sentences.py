"""Sentences as rows of tokens: what is read, what is cut, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedguard.data.sentences import Sentences, Sst2
from fedguard.data.vocabulary import PAD, UNKNOWN, of_words, split_words
from fedguard.errors import ConfigurationError
from fedguard.models.text_transformer import TextTransformer

LINES = [
    ("good film , don't miss it", "pos", "ann"),
    ("bad film", "neg", "bob"),
    ("good good", "pos", "ann"),
    ("bad , bad acting", "neg", "bob"),
    ("so good a film", "pos", "ann"),
    ("so bad", "neg", "bob"),
    ("", "pos", "ann"),
    ("no label", "", "ann"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = ["text\tlabel\twriter", *("\t".join(line) for line in LINES)]
    (tmp_path / "reviews.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_words_and_stops_are_tokens_and_a_contraction_is_one() -> None:
    assert split_words("Don't MISS it, ever-so nice_thing!") == [
        *("don't", "miss", "it", ",", "ever-so", "nice", "thing", "!"),
    ]


def test_the_commonest_words_are_the_vocabulary_and_others_are_unknown() -> None:
    known = of_words(["b a b", "c b a d"], 4)
    assert known.words == ("<pad>", "<unknown>", "b", "a")
    assert known.tokens("a c B") == [3, UNKNOWN, 2]
    rows, cut = known.rows(["a", "b a b b"], 3)
    assert rows.tolist() == [[3, PAD, PAD], [2, 3, 2]]
    assert cut == 1


def test_a_table_of_sentences_is_read_split_and_counted(folder: Path) -> None:
    found = Sentences(length=4, test_fraction=0.3, group="writer").load(folder)
    assert found.class_names == ("neg", "pos")
    assert (len(found.x_train), len(found.x_test)) == (4, 2)
    assert sorted(found.y_test.tolist()) == [0, 1]
    assert found.x_train.dtype == torch.int64
    assert found.x_train.shape[1] == 4
    assert any("2 of 8 rows have no text or no label" in note for note in found.notes)
    assert found.group_names == {"writer": ("ann", "bob")}
    # The writer is the class here.
    assert found.groups is not None
    assert torch.equal(found.groups["writer"], 1 - found.y_train)
    words = found.facts.words
    assert "good" in words
    assert "label" not in words


@pytest.mark.parametrize(
    ("options", "field", "says"),
    [
        ({"text": "txt"}, "dataset.text", "text"),
        ({"label": "lable"}, "dataset.label", "label"),
        ({"group": "writter"}, "dataset.group", "writer"),
        ({"path": Path("other.tsv")}, "dataset.path", "an existing file"),
        ({"length": 1}, "length", ">= 2"),
    ],
)
def test_what_cannot_be_is_one_line(folder: Path, options, field, says) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Sentences(**options).load(folder)
    assert caught.value.field == field
    assert says in str(caught.value)


def test_sst2_takes_its_two_files_and_names_its_classes(tmp_path: Path) -> None:
    for name, rows in (
        ("train", "good\t1\nbad\t0\nfine\t1\npoor\t0\n"),
        ("test", "ok\t1\nno\t0\n" * 2),
    ):
        (tmp_path / f"{name}.tsv").write_text("sentence\tlabel\n" + rows)
    found = Sst2().load(tmp_path)
    assert found.class_names == ("negative", "positive")
    assert found.y_train.tolist() == [1, 0, 1, 0]
    assert (found.x_test[:, 0] == UNKNOWN).all()
    with pytest.raises(ConfigurationError, match=r"train\.tsv and test\.tsv"):
        Sst2().load(tmp_path / "nowhere")
    (tmp_path / "test.tsv").write_text("sentence\tlabel\nok\t2\nno\t0\nso\t0\nhm\t1\n")
    with pytest.raises(ConfigurationError, match="labels 0 and 1"):
        Sst2().load(tmp_path)


def test_filling_changes_nothing_and_order_neither() -> None:
    torch.manual_seed(0)
    network = TextTransformer((6,), 3, vocabulary=9).eval()
    short = torch.tensor([[4, 2, 7]])
    filled = torch.tensor([[4, 2, 7, PAD, PAD, PAD]])
    turned = torch.tensor([[7, 4, 2, PAD, PAD, PAD]])
    torch.testing.assert_close(network(short), network(filled), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network(turned), network(filled), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(network(torch.tensor([[4, 2, 8]])), network(short))
    assert torch.isfinite(network(torch.zeros(2, 6, dtype=torch.int64))).all()


def test_a_network_needs_to_know_how_many_tokens_there_are() -> None:
    with pytest.raises(ConfigurationError, match="vocabulary"):
        TextTransformer((6,), 3)
    with pytest.raises(ConfigurationError, match="multiple of heads"):
        TextTransformer((6,), 3, vocabulary=9, width=10)
    with pytest.raises(ConfigurationError, match="wordllama"):
        TextTransformer((6,), 3, vocabulary=9, embedding="wordllama")
