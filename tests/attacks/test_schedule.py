from __future__ import annotations

import pytest

from fedguard.attacks.toolkit.schedule import Schedule, parse_schedule
from fedguard.errors import ConfigurationError


def _rounds(value, seed=0, rounds=range(1, 21)):
    schedule = parse_schedule(value)
    return [number for number in rounds if schedule.active(number, seed)]


def test_all_rounds():
    assert _rounds("all") == list(range(1, 21))
    assert _rounds({"probability": 1.0}) == list(range(1, 21))


def test_window_and_single_shot():
    assert _rounds({"window": [5, 10]}) == [5, 6, 7, 8, 9, 10]
    assert _rounds({"single": 7}) == [7]


def test_random_rounds_come_at_their_rate_and_repeat_under_the_seed():
    many = range(1, 2001)
    found = _rounds({"probability": 0.3}, rounds=many)
    assert len(found) / len(many) == pytest.approx(0.3, abs=0.04)
    assert found == _rounds({"probability": 0.3}, rounds=many)
    assert found != _rounds({"probability": 0.3}, seed=1, rounds=many)
    assert _rounds({"probability": 0.0}) == []


def test_a_round_asks_no_other_round():
    schedule = parse_schedule({"probability": 0.5})
    forwards = [schedule.active(number, 3) for number in range(1, 30)]
    backwards = [schedule.active(number, 3) for number in reversed(range(1, 30))]
    assert forwards == backwards[::-1]


def test_window_with_probability():
    found = _rounds({"window": [5, 10], "probability": 0.5}, seed=2)
    assert set(found) < set(range(5, 11))
    assert found == [
        number for number in _rounds({"probability": 0.5}, seed=2) if 5 <= number <= 10
    ]


def test_a_schedule_is_its_own_parse_and_a_value():
    schedule = Schedule(2, 4, 0.5)
    assert parse_schedule(schedule) is schedule
    assert schedule == Schedule(2, 4, 0.5)


@pytest.mark.parametrize(
    "value",
    [
        "some",
        {},
        7,
        {"every": 2},
        {"single": 0},
        {"single": 1.5},
        {"single": 3, "probability": 0.1},
        {"window": [5]},
        {"window": [10, 5]},
        {"window": ["a", "b"]},
        {"probability": 1.5},
        {"probability": True},
        {"probability": "often"},
    ],
)
def test_anything_else_is_refused_in_one_line(value):
    with pytest.raises(ConfigurationError, match="attack_rounds") as caught:
        parse_schedule(value)
    assert "\n" not in str(caught.value)
