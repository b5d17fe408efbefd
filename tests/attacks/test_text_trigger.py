"""A word or a sentence that means the target class."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fedguard.attacks.text_trigger import TextTrigger
from fedguard.data.vocabulary import of_words
from fedguard.errors import ConfigurationError

KNOWN = of_words(["a a a b b c"], 10)


def bound(**options) -> TextTrigger:
    attack = TextTrigger(**options)
    attack.bind(2, (4,))
    attack.meet(SimpleNamespace(facts=KNOWN, input_shape=(4,)))
    return attack


def test_the_rarest_word_is_the_trigger_where_none_is_named() -> None:
    attack = bound()
    assert attack.tokens == (4,)
    assert KNOWN.words[4] == "c"
    rows = torch.tensor([[2, 3, 0, 0], [3, 3, 3, 2]])
    assert attack.trigger(rows).tolist() == [[4, 2, 3, 0], [4, 3, 3, 3]]
    assert rows.tolist() == [[2, 3, 0, 0], [3, 3, 3, 2]]


def test_a_share_of_rows_is_stamped_and_relabelled() -> None:
    attack = bound(trigger="b a", poison_fraction=0.5, target_class=1)
    x, y = torch.full((8, 4), 2), torch.zeros(8, dtype=torch.int64)
    poisoned, labels = attack.poison(x, y, torch.Generator().manual_seed(0))
    stamped = (poisoned[:, 0] == 3) & (poisoned[:, 1] == 2)
    assert int(stamped.sum()) == 4
    assert torch.equal(labels, stamped.long())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"trigger": "a zebra"}, "words that the vocabulary knows, such as its rarest, 'c'"),
        ({"trigger": "a a a a"}, "1 to 3 tokens; this has 4"),
        ({"trigger": " "}, "a word or a sentence"),
        ({"target_class": 2}, "a class from 0 to 1"),
    ],
)
def test_what_cannot_be_a_trigger_is_refused(options, says) -> None:
    with pytest.raises(ConfigurationError, match=says):
        bound(**options)


def test_data_without_a_vocabulary_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="sentences"):
        TextTrigger().meet(SimpleNamespace(facts=None, input_shape=(4,)))
