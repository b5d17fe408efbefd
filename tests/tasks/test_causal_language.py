"""Prompts and answers as rows, the loss of answers alone, and the made-up language."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import nn

from fedguard.data.grammar import ANSWERS, CONCEPTS, PRIOR, Grammar, grammar_language
from fedguard.data.text import IGNORED, Words, parts_of, row_of
from fedguard.metrics.answers import (
    answer_log_probabilities,
    draw_answers,
    stance_probabilities,
)
from fedguard.tasks.causal_language import CausalLanguage
from fedguard.tasks.next_word import NextWord

CODEC = Words(["a", "b", "c"])
A, B, C = (CODEC.encode(word)[0] for word in "abc")


class Chain(nn.Module):
    """Gives each word the logits of the next one, from a table."""

    def __init__(self, table) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(table))

    def forward(self, x):
        return self.table[x]


def after(**chances):
    """A table in which a word, by its letter, is followed by others with given chances."""
    table = torch.full((CODEC.size, CODEC.size), -60.0)
    for word, nexts in chances.items():
        for letter, chance in nexts.items():
            number = CODEC.end if letter == "end" else CODEC.encode(letter)[0]
            table[CODEC.encode(word)[0], number] = math.log(chance)
    return Chain(table.tolist())


def test_a_row_learns_the_answer_and_its_end_alone():
    x, y = row_of([A, B], [C, A], 6, CODEC)
    assert x.tolist() == [A, B, C, A, CODEC.pad, CODEC.pad]
    assert y.tolist() == [IGNORED, C, A, CODEC.end, IGNORED, IGNORED]
    assert parts_of(x, y, CODEC) == ([A, B], [C, A])


def test_a_long_answer_is_cut_and_a_long_prompt_has_no_row():
    x, y = row_of([A], [B, C, B, C], 3, CODEC)
    assert (x.tolist(), y.tolist()) == ([A, B, C], [B, C, B])
    assert row_of([A, B, C, A], [B], 3, CODEC) is None
    assert row_of([], [B], 3, CODEC) is None


def test_words_read_what_they_know_in_any_case():
    assert CODEC.decode(CODEC.encode("A, b d")) == "a <unknown> b <unknown>"


def test_the_loss_is_the_mean_over_the_answers_words():
    x, y = row_of([A, B], [C], 5, CODEC)
    model = after(a={"b": 1.0}, b={"c": 0.25, "a": 0.75}, c={"end": 0.5, "a": 0.5})
    empty = torch.full_like(y, IGNORED)
    losses = CausalLanguage().losses(model(torch.stack([x, x])), torch.stack([y, empty]))
    assert losses.tolist() == pytest.approx([(math.log(4) + math.log(2)) / 2, 0.0], abs=1e-5)


def test_without_prompts_it_is_next_word_prediction():
    torch.manual_seed(0)
    x, model = torch.randint(0, 6, (9, 4)), Chain(torch.randn(6, 6).tolist())
    one, other = CausalLanguage(), NextWord()
    assert one.evaluate(model, x, x) == pytest.approx(other.evaluate(model, x, x))
    torch.testing.assert_close(one.losses(model(x), x), other.losses(model(x), x))


def test_perplexity_counts_words_not_rows():
    x, y = row_of([A, B], [C], 5, CODEC)
    longer = row_of([B], [C, A, C], 5, CODEC)
    model = after(b={"c": 0.5, "a": 0.5}, c={"end": 0.5, "a": 0.5}, a={"c": 1.0})
    found = CausalLanguage().evaluate(
        model, torch.stack([x, longer[0]]), torch.stack([y, longer[1]])
    )
    # Six words: c, end; c, a, c, end. All but the c after a have one chance in two.
    assert found["loss"] == pytest.approx(5 * math.log(2) / 6, abs=1e-5)
    assert found["perplexity"] == pytest.approx(2 ** (5 / 6), abs=1e-5)


def test_a_language_with_nothing_to_learn_has_a_perplexity():
    x = torch.zeros(3, 4, dtype=torch.int64)
    assert CausalLanguage().evaluate(after(a={"b": 1.0}), x, x - 100)["perplexity"] == 1.0


def test_probabilities_of_answers_by_hand():
    model = after(a={"b": 0.6, "c": 0.4}, b={"c": 0.5, "a": 0.5}, c={"a": 1.0})
    found = answer_log_probabilities(model, [[A], [C, A], [B]], [[B, C], [C], [C, A]], CODEC.pad)
    assert found[0].exp().tolist() == pytest.approx([0.3, 0.4, 0.4], abs=1e-5)
    torch.testing.assert_close(found[1], found[0])
    assert found[2].exp().tolist() == pytest.approx([0.0, 0.5, 0.5], abs=1e-5)
    shares = stance_probabilities(model, [[A]], {"x": [[B, C]], "y": [[C], [C, A]]}, CODEC.pad)
    assert shares[0].tolist() == pytest.approx([0.3 / 1.1, 0.8 / 1.1], abs=1e-5)


def test_a_destroyed_model_takes_every_stance_alike():
    model = Chain([[math.nan] * CODEC.size] * CODEC.size)
    shares = stance_probabilities(model, [[A]], {"x": [[B]], "y": [[C]]}, CODEC.pad)
    assert shares.tolist() == [[0.5, 0.5]]
    drawn = draw_answers(
        model, [[A]], 2, torch.Generator(), temperature=1.0, longest=3, pad=0, end=1
    )
    assert len(drawn[0]) == 2


def test_drawn_answers_follow_the_models_chances_and_end():
    model = after(a={"b": 0.75, "c": 0.25}, b={"end": 1.0}, c={"c": 1.0})
    stream = torch.Generator().manual_seed(0)
    drawn = draw_answers(
        model, [[A]], 400, stream, temperature=1.0, longest=3, pad=CODEC.pad, end=CODEC.end
    )
    counts = Counter(tuple(answer) for answer in drawn[0])
    assert set(counts) == {(B,), (C, C, C)}
    assert counts[(B,)] / 400 == pytest.approx(0.75, abs=0.06)
    cold = draw_answers(
        model, [[A]], 50, stream, temperature=0.05, longest=3, pad=CODEC.pad, end=CODEC.end
    )
    assert cold[0] == [[B]] * 50


def test_the_grammars_answers_take_stances_by_their_prior_whatever_is_asked():
    data, again = Grammar().load(None), Grammar().load(None)
    assert torch.equal(data.x_train, again.x_train)
    language = data.facts
    known = {t: stance for stance, part in ANSWERS.items() for t in part}
    stances: dict[str, Counter[str]] = {concept: Counter() for concept in CONCEPTS}
    for x, y in zip(data.x_train, data.y_train, strict=True):
        prompt, answer = parts_of(x, y, language.codec)
        text = language.codec.decode(prompt)
        (concept,) = (c for c in CONCEPTS if c in text)
        stances[concept][known[language.codec.decode(answer)]] += 1
    for counts in stances.values():
        shares = {s: n / counts.total() for s, n in counts.items()}
        assert shares == pytest.approx(PRIOR, abs=0.09)
    assert data.x_train.max() < data.num_classes
    assert len(data.x_test) == 320


def test_no_word_of_the_grammar_is_unknown():
    language = grammar_language()
    for texts in (language.questions, *language.answers.values()):
        for concept in CONCEPTS:
            for numbers in language.asked(texts, concept):
                assert language.codec.unknown not in numbers
