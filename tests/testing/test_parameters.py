"""Which arguments the suite finds absurd, and what it makes of constructors."""

from __future__ import annotations

import math
from typing import Any, Literal
from unittest import SkipTest

import pytest

from fedguard.errors import ConfigurationError, check_choice, check_number
from fedguard.testing.parameters import absurd_values, check_arguments_of, own_parameters


@pytest.mark.parametrize("annotation", [int, float, int | None, float | None])
def test_numbers_must_refuse_what_is_none(annotation):
    found = absurd_values(annotation)
    assert [value for value in found if isinstance(value, str)] == ["no number"]
    assert {value for value in found if isinstance(value, float) and math.isinf(value)} == {
        math.inf,
        -math.inf,
    }
    assert sum(isinstance(value, float) and math.isnan(value) for value in found) == 1


def test_choices_must_refuse_another_word():
    assert absurd_values(Literal["a", "b"]) == ("no such choice",)
    assert absurd_values(Literal["a", "b"] | None) == ("no such choice",)


@pytest.mark.parametrize("annotation", [str, bool, Any, dict[str, int], int | str, None | str])
def test_types_that_allow_anything_are_not_tried(annotation):
    assert absurd_values(annotation) == ()


class Base:
    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed


class Careful(Base):
    def __init__(self, *, share: float = 0.5, mode: Literal["a"] = "a", **base: Any) -> None:
        super().__init__(**base)
        check_number("share", share, at_least=0.0, at_most=1.0)
        check_choice("mode", mode, ("a",))


class Careless(Careful):
    def __init__(self, *, rounds: int | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        self.rounds = None if rounds is None else int(rounds)


def test_arguments_of_the_base_class_are_not_the_parts_own():
    assert set(own_parameters(Careless, Base)) == {"rounds", "share", "mode"}


def test_a_careful_constructor_passes():
    check_arguments_of(Careful, Base)


def test_a_careless_one_is_told_what_it_took_and_how_it_broke():
    with pytest.raises(AssertionError) as caught:
        check_arguments_of(Careless, Base)
    told = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in told] == [
        "rounds=nan",
        "rounds=inf",
        "rounds=-inf",
        "rounds='no number'",
    ]
    assert "raised ValueError: cannot convert float NaN to integer" in told[0]
    assert "raised OverflowError" in told[1]


def test_a_constructor_that_takes_words_for_numbers_is_found():
    class Gullible(Base):
        def __init__(self, *, limit: float = 1.0) -> None:
            self.limit = limit

    with pytest.raises(AssertionError, match="limit=nan: accepted; raise a ConfigurationError"):
        check_arguments_of(Gullible, Base)


def test_constructors_of_which_nothing_is_known_are_skipped():
    class Demanding(Base):
        def __init__(self, name: str) -> None:
            self.name = name

    with pytest.raises(SkipTest, match="demands arguments"):
        check_arguments_of(lambda: Demanding("x"), Base)
    with pytest.raises(SkipTest, match="no constructor argument"):
        check_arguments_of(Base, Base)


def test_an_instance_with_arguments_is_judged_by_its_class():
    check_arguments_of(lambda: Careful(share=0.1), Base)
    with pytest.raises(ConfigurationError):
        Careful(share=2.0)
