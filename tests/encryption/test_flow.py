"""What a server makes of refusals and accusations."""

from __future__ import annotations

import pytest

from fedguard.encryption.protocol.flow import BeginAnewError, hear, trip_of


def refusals(*pairs: tuple[int, int]) -> dict[int, dict[str, dict[str, object]]]:
    return {by: {"reveal": {"refused": f"client {of} is wrong", "accused": of}} for by, of in pairs}


def test_replies_refusals_and_silence_are_told_apart():
    faults: dict[int, str] = {}
    answers = {
        1: {"share": {"share": b"x"}},
        2: {"share": {"refused": "no", "disputed": 1}},
        3: {"reveal": {"key": b"y"}},
    }
    heard = hear(answers, "share", faults)
    assert heard.replies == {1: {"share": b"x"}}
    assert faults == {2: "no"}
    assert heard.disputed == {2}
    assert not heard.accusers


def test_most_of_those_asked_convict_and_are_no_longer_at_fault_themselves():
    faults: dict[int, str] = {}
    heard = hear(refusals((1, 4), (2, 4), (3, 4)), "reveal", faults)
    with pytest.raises(BeginAnewError) as caught:
        heard.convict([1, 2, 3, 4, 5], faults)
    assert caught.value.parties == (4,)
    assert faults == {4: "3 of 5 clients say: client 4 is wrong"}


@pytest.mark.parametrize("pairs", [[(1, 4)], [(1, 4), (2, 4)], [(1, 4), (2, 5), (3, 1)], [(4, 4)]])
def test_fewer_do_not_convict_and_nobody_accuses_itself(pairs):
    faults: dict[int, str] = {}
    heard = hear(refusals(*pairs), "reveal", faults)
    heard.convict([1, 2, 3, 4], faults)
    assert set(faults) == {by for by, _ in pairs}
    assert 4 not in heard.accusers.get(4, set())


def test_one_trip_holds_every_stage_and_says_who_is_addressed():
    trip = trip_of(share={1: {"round": 3}, 2: {"round": 3}}, reveal={2: {"round": 4}})
    assert trip == {
        1: {"share": {"round": 3, "you": 1}},
        2: {"share": {"round": 3, "you": 2}, "reveal": {"round": 4, "you": 2}},
    }
