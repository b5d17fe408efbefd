"""What a run is led by: accuracy where it does not say, and figures of which less is better."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedguard.reporting.headline import Headline, sentence

PERPLEXITY = Headline("perplexity", higher_is_better=False, unit="plain")
ERROR = Headline("error_rate", higher_is_better=False)
CORRELATION = Headline("rank correlation", unit="plain")

LANGUAGE: dict[str, Any] = {
    "headline": {"name": "perplexity", "higher_is_better": False, "unit": "plain"},
    "strategy": "krum",
    "attack": "sign-flip",
    "clients": 10,
    "malicious": 2,
    "final": {"perplexity": 8.25},
    "best": {"perplexity": 8.0, "round": 9},
}


def test_a_summary_that_names_none_is_led_by_accuracy() -> None:
    assert Headline.of({}) == Headline("accuracy", higher_is_better=True, unit="share")


def test_a_summary_names_its_own() -> None:
    assert Headline.of(LANGUAGE) == PERPLEXITY


@pytest.mark.parametrize(
    "told", [None, 3, [], {}, {"name": None}, {"name": ""}, {"name": ["accuracy"]}]
)
def test_a_damaged_headline_is_accuracy(told: object) -> None:
    assert Headline.of({"headline": told}) == Headline()


def test_a_unit_nobody_knows_is_a_share() -> None:
    found = Headline.of({"headline": {"name": "recall", "unit": "furlong"}})
    assert found == Headline("recall", higher_is_better=True, unit="share")


def test_best_and_worst_turn_with_the_direction() -> None:
    assert (Headline().best([0.2, 0.9, 0.5]), Headline().worst([0.2, 0.9, 0.5])) == (0.9, 0.2)
    assert (PERPLEXITY.best([20.0, 9.0, 50.0]), PERPLEXITY.worst([20.0, 9.0, 50.0])) == (9.0, 50.0)


def test_a_lost_run_is_worse_than_any_other() -> None:
    for headline, values in ((Headline(), [0.01, 0.5]), (PERPLEXITY, [1.0, 1e300])):
        worst = headline.worst([*values, headline.worst_possible])
        assert worst == headline.worst_possible


@pytest.mark.parametrize(
    ("headline", "value", "text", "narrow"),
    [
        (Headline(), 0.9421, "94.2 %", "94.2"),
        (Headline(), None, "–", ""),
        (Headline(), float("nan"), "–", ""),
        (PERPLEXITY, 17.3456, "17.35", "17.35"),
        (PERPLEXITY, 123456.0, "1.235e+05", "1.235e+05"),
        (PERPLEXITY, math.inf, "∞", "∞"),
        (PERPLEXITY, None, "–", ""),
        (ERROR, 0.05, "5.0 %", "5.0"),
    ],
)
def test_values_are_shown_in_the_headlines_unit(
    headline: Headline, value: float | None, text: str, narrow: str
) -> None:
    assert headline.text(value) == text
    assert headline.cell(value) == narrow


def test_cells_may_have_no_decimals() -> None:
    assert Headline().cell(0.876, 0) == "88"
    assert PERPLEXITY.cell(8.76, 0) == "8.76"


def test_differences_carry_their_sign_and_unit() -> None:
    assert (Headline().difference(-0.031), Headline().steps) == ("-3.1", "points")
    assert (PERPLEXITY.difference(2.5), PERPLEXITY.steps) == ("+2.5", "in perplexity")


def test_names_are_shown_in_words_of_bounded_length() -> None:
    assert ERROR.words == "error rate"
    assert ERROR.title == "Error rate"
    assert len(Headline("x" * 500).words) == 40
    assert "\x1b" not in Headline("\x1b[2Jname").words
    assert Headline("x" * 500).name == "x" * 500, "the field's name stays as it is"


def test_a_value_in_a_sentence() -> None:
    assert Headline().within(0.5) == "50.0 % accuracy"
    assert PERPLEXITY.within(4.0) == "a perplexity of 4"
    assert Headline("error", unit="plain").within(4.0) == "an error of 4"


def test_a_fall_is_five_points_of_a_share_and_five_percent_of_a_number() -> None:
    assert Headline().fell(0.849, 0.9)
    assert not Headline().fell(0.851, 0.9)
    assert ERROR.fell(0.151, 0.1)
    assert not ERROR.fell(0.149, 0.1)
    assert PERPLEXITY.fell(10.51, 10.0)
    assert not PERPLEXITY.fell(10.49, 10.0)
    assert not PERPLEXITY.fell(5.0, 10.0), "better than the best is no fall"
    assert CORRELATION.fell(-0.6, -0.5)


def test_sentence_of_a_model_that_held() -> None:
    assert (
        sentence(LANGUAGE) == "krum kept a perplexity of 8.25 under sign-flip by 2 of 10 clients."
    )
    clean = LANGUAGE | {"attack": "none", "malicious": 0}
    assert sentence(clean) == "krum reached a perplexity of 8.25 with 10 honest clients."


def test_a_perplexity_that_grows_has_risen() -> None:
    text = sentence(LANGUAGE | {"final": {"perplexity": 60.0}})
    assert "krum rose to a perplexity of 60 (its best was 8 in round 9) under" in text


def test_a_missing_headline_is_named() -> None:
    text = sentence(LANGUAGE | {"final": {"accuracy": 0.9}})
    assert text.startswith("krum ran without a recorded perplexity")


def test_only_accuracy_is_compared_with_guessing() -> None:
    classes = {"class_names": ["a", "b"]}
    assert "guessing" in sentence({"final": {"accuracy": 0.5}, **classes})
    rate = {"headline": {"name": "hit_rate"}, "final": {"hit_rate": 0.5}}
    assert "guessing" not in sentence({**rate, **classes})


def test_one_client_is_no_crowd() -> None:
    assert "with 1 honest client." in sentence({"final": {"accuracy": 0.5}, "clients": 1})
