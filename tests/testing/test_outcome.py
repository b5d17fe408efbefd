"""How checks are run: all of them, with every failure and every skip told."""

from __future__ import annotations

from unittest import SkipTest

import pytest

from fedguard.testing.outcome import Conformance, every_failure, run_checks


def check_good(make):
    assert make() == 3


def check_bad(make):
    with every_failure() as failures:
        for size in (1, 2, 3):
            with failures.on(f"size {size}"):
                if size > 1:
                    raise AssertionError(f"{size * make()} is too much")


def check_none(make):
    raise SkipTest("there is nothing to see")


def check_crash(make):
    raise KeyError("lost")


def make_three() -> int:
    return 3


def test_what_passes_and_what_is_skipped_is_returned():
    found = run_checks([check_good, check_none], make_three)
    assert found == Conformance(("check_good",), {"check_none": "there is nothing to see"})
    assert str(found) == "1 checks passed\ncheck_none skipped: there is nothing to see"


def test_every_input_of_every_failed_check_gets_a_line():
    with pytest.raises(AssertionError) as caught:
        run_checks([check_bad, check_good, check_none, check_crash], make_three)
    assert str(caught.value).splitlines() == [
        "2 of 4 checks failed",
        "check_bad: size 2: 6 is too much",
        "check_bad: size 3: 9 is too much",
        "check_crash: raised KeyError: 'lost'",
        "check_none skipped: there is nothing to see",
    ]


def test_a_crash_on_one_input_is_noted_like_a_failure():
    def check_division(make):
        with every_failure() as failures:
            for size in (1, 0):
                with failures.on(f"size {size}"):
                    assert make() / size == 3

    with pytest.raises(AssertionError, match="size 0: raised ZeroDivisionError: division by zero"):
        check_division(make_three)


def test_nothing_noted_nothing_raised():
    with every_failure() as failures, failures.on("fine"):
        pass
    assert failures.found == []


def test_a_skip_inside_an_input_skips_the_check():
    def check_half(make):
        with every_failure() as failures, failures.on("first"):
            raise SkipTest("not for this one")

    assert run_checks([check_half], make_three).skipped == {"check_half": "not for this one"}
