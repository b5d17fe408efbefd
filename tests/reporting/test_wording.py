"""Numbers and the sentence that sums up a run."""

from __future__ import annotations

from typing import Any

import pytest

from fedguard.reporting.headline import sentence as headline
from fedguard.reporting.wording import duration, percent, size

ATTACKED: dict[str, Any] = {
    "strategy": "geminiguard",
    "attack": "min-max",
    "clients": 20,
    "malicious": 4,
    "final": {"accuracy": 0.942},
    "best": {"accuracy": 0.95, "round": 7},
    "detection": {"true_positive_rate": 0.98, "false_positive_rate": 0.03},
    "class_names": list("abcdefghij"),
}


def test_headline_of_a_defence_that_held() -> None:
    assert headline(ATTACKED) == (
        "geminiguard kept 94.2 % accuracy under min-max by 4 of 20 clients; "
        "it rejected 98.0 % of their updates and 3.0 % of honest ones."
    )


def test_headline_names_a_fall_and_a_collapse() -> None:
    fell = headline(ATTACKED | {"final": {"accuracy": 0.5}})
    assert "fell to 50.0 % accuracy (its best was 95.0 % in round 7) under min-max" in fell
    collapsed = headline(ATTACKED | {"final": {"accuracy": 0.11}})
    assert "ended at 11.0 % accuracy, about what guessing among 10 classes gives," in collapsed


def test_headline_tells_attack_success_where_it_was_measured() -> None:
    text = headline(ATTACKED | {"final": {"accuracy": 0.94, "attack_success_rate": 0.021}})
    assert text.endswith("ones; the attack succeeded on 2.1 % of the inputs it aims at.")
    lost = headline(ATTACKED | {"final": {"accuracy": 0.94, "attack_success_rate": 0.96}})
    assert lost.endswith("ones; but the attack succeeded on 96.0 % of the inputs it aims at.")


def test_headline_without_attack() -> None:
    clean = ATTACKED | {"attack": "none", "malicious": 0, "detection": {}}
    assert headline(clean) == "geminiguard reached 94.2 % accuracy with 20 honest clients."
    assert headline({"strategy": "krum"}) == "krum ran without a recorded accuracy."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 s"),
        (9.994, "9.99 s"),
        (9.996, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (3599.7, "1 h 00 min"),
        (None, "–"),
        (-1, "–"),
        (float("nan"), "–"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_percent_and_size() -> None:
    assert percent(0.9999) == "100.0 %"
    assert percent("0.5") == "–"
    assert size(812_000_000) == "812 MB"
    assert size(3.2e9) == "3.20 GB"
