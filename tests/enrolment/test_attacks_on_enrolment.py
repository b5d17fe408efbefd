"""Every attack on enrolment succeeds against its control, and fails against the protocol."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from fedguard.enrolment.attacks import ATTACKS, AttackOutcome
from fedguard.enrolment.attacks.metadata import linking_by_cosine
from fedguard.enrolment.attacks.outcome import advantage
from fedguard.enrolment.attacks.world import decoys, matches, stream
from fedguard.enrolment.reasons import REASONS

NOT_PREVENTED = {"update-similarity"}


@cache
def outcome(name: str, guarded: bool) -> AttackOutcome:
    return ATTACKS[name](guarded)


@pytest.mark.parametrize("name", ATTACKS)
def test_it_succeeds_on_its_control(name):
    found = outcome(name, False)
    assert found.succeeded, found.line
    assert "control" in found.line


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - NOT_PREVENTED))
def test_it_fails_on_the_protocol(name):
    found = outcome(name, True)
    assert not found.succeeded, found.line
    assert "protocol" in found.line


def test_linking_by_contents_is_not_prevented_and_said_so():
    assert outcome("update-similarity", True).figure > 0.5


def test_labels_link_no_better_than_one_in_k():
    found = outcome("label-linking", True)
    assert 0.5 / 16 < found.figure <= 1 / 16 + 0.01
    assert "0 labels of the first epoch came back" in found.evidence
    assert outcome("label-linking", False).figure == 1.0


@pytest.mark.parametrize(("k", "sessions"), [(8, 2.06), (32, 2.61), (128, 4.16)])
def test_decoys_drawn_anew_name_their_user_after_a_few_sessions(k, sessions):
    assert ATTACKS["intersection"](False, k=k).figure == pytest.approx(sessions, abs=0.15)


def test_insiders_leave_what_was_measured_before():
    assert outcome("insiders", False).figure == pytest.approx(28.1, abs=0.3)
    assert outcome("insiders", True).figure == pytest.approx(1000 * 0.9 / 31, abs=0.01)


def test_forgeries_are_refused_with_distinct_reasons():
    names = ["replay", "other-round", "swapped-aggregator", "wrong-epoch"]
    names += ["forged-ticket", "forged-handle", "swapped-update"]
    told = {outcome(name, True).evidence.removeprefix("refused: ") for name in names}
    assert len(told) == len(names)
    assert told <= set(REASONS)


def test_metadata_links_always_with_reused_keys_and_never_with_fresh_ones():
    assert outcome("reused-keys", False).figure == 1.0
    for name in ("reused-keys", "example-counts"):
        assert abs(outcome(name, True).figure) <= 0.02


def test_one_update_of_five_is_admitted():
    for name in ("sybil", "sybil-tokens"):
        assert (outcome(name, False).figure, outcome(name, True).figure) == (5, 1)


def test_two_who_collude_name_everybody_or_guess():
    assert outcome("collusion", False).figure == 1.0
    assert outcome("collusion", True).figure == pytest.approx(1 / 32)
    assert "all 32 requests fit every token" in outcome("collusion", True).evidence


def test_the_attackers_tools_measure_what_they_say():
    rng = stream("test")
    assert matches("abc", "abc", rng) == 3
    assert matches("abc", "bca", rng) == 0
    halves = sum(matches("aabb", "aabb", rng) for _ in range(500)) / 2000
    assert halves == pytest.approx(0.5, abs=0.05)
    assert advantage(10, 10, 4) == 1.0
    assert advantage(5, 20, 4) == 0.0
    found = decoys(7, 20, 5, rng)
    assert len(found) == 5
    assert 7 in found
    assert found <= set(range(20))
    one = torch.eye(6) + 0.01
    assert linking_by_cosine(one, 3 * one) == 1.0
    assert linking_by_cosine(one, one.flip(0)) < 0
