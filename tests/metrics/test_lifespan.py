"""How long an attack outlives the attackers: half of the peak above the floor, by hand."""

from __future__ import annotations

import math

import pytest

from fedguard.metrics.lifespan import lifespan


def course(*values, name="implant_strength"):
    return [{"round": number, name: value} for number, value in enumerate(values)]


def test_it_lasts_until_less_than_half_of_the_peak_is_left():
    found = lifespan(course(0.9, 0.2, 0.6, 0.5, 0.4, 0.3, 0.29, 0.1), 1, 3)
    assert (found.peak, found.peak_round, found.attacked_until) == (0.6, 2, 3)
    # 0.3 is exactly half, which is not less; round 0, before the attack, is no peak.
    assert (found.rounds, found.ended) == (3, True)


def test_one_that_never_falls_lasted_as_long_as_was_watched():
    found = lifespan(course(0.0, 0.2, 0.6, 0.5, 0.6), 1, 2)
    assert (found.rounds, found.ended) == (2, False)


def test_one_that_fell_before_they_left_lasted_no_round():
    found = lifespan(course(0.0, 0.8, 0.1, 0.7), 1, 2)
    assert (found.rounds, found.ended) == (0, True)


def test_what_a_late_attack_found_is_the_floor():
    values = (0.9, 0.2, 0.8, 0.55, 0.49)
    found = lifespan(course(*values, name="attack_success_rate"), 2, 2)
    assert (found.measure, found.floor) == ("attack_success_rate", 0.2)
    assert found.rounds == 2  # 0.5 is half of the way between 0.2 and 0.8
    # An untrained model's answers are no floor; those of one to start from are.
    early = course(*values[1:], name="attack_success_rate")
    assert lifespan(early, 1, 1).floor == 0.0
    assert lifespan(early, 1, 1, untrained=False).floor == 0.2


def test_an_implants_strength_has_its_floor_in_it_and_goes_before_success():
    records = [{**strength, "attack_success_rate": 0.9} for strength in course(0.0, 0.1, 0.5, 0.1)]
    found = lifespan(records, 2, 2)
    assert (found.measure, found.floor, found.rounds) == ("implant_strength", 0.0, 1)


def test_an_attack_that_never_took_has_no_lifespan():
    found = lifespan(course(0.0, 0.04, 0.01, 0.0), 1, 2)
    assert (found.rounds, found.ended) == (None, False)


@pytest.mark.parametrize(
    ("records", "last"),
    [
        (course(0.0, 0.5, 0.6), 2),  # they never left
        (course(None, None, None), 1),
        ([{"round": number} for number in range(4)], 2),
        (course(0.1, math.nan, 0.2), 1),  # nothing known while they attacked
        ([], 1),
    ],
)
def test_without_a_figure_or_a_round_after_them_nobody_can_say(records, last):
    assert lifespan(records, 1, last) is None
