"""What a client lets go of, and remembers for good."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from fedguard.encryption.errors import RefusedError
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.ledger import (
    LEDGER,
    Ledger,
    Training,
    cohort_digest,
    model_digest,
)
from fedguard.encryption.protocol.ledger_file import LedgerFile

ALL, FEWER = cohort_digest((1, 2, 3, 4)), cohort_digest((1, 2, 3))


def test_an_update_belongs_to_the_round_it_was_trained_for():
    ledger = Ledger({})
    for server_round in (1, 3):
        with pytest.raises(RefusedError, match="trained for round 2"):
            ledger.check(Training(2, b"model"), server_round, ALL, once=False)
    ledger.check(Training(2, b"model"), 2, ALL, once=False)


def test_rounds_that_may_have_been_opened_are_over():
    memory: dict = {}
    Ledger(memory).note(Training(4, b"model"), ALL, once=False)
    ledger = Ledger(memory)
    assert ledger.latest == 4
    for server_round in (3, 4):
        with pytest.raises(RefusedError, match="already answered for round 4"):
            ledger.check(Training(server_round, b"new"), server_round, ALL, once=False)
    ledger.check(Training(5, b"new"), 5, FEWER, once=True)


@pytest.mark.parametrize(
    ("noted_once", "cohort", "once", "refused"),
    [
        (False, ALL, False, False),
        (False, FEWER, False, True),
        (False, ALL, True, True),
        (True, ALL, False, True),
        (True, ALL, True, True),
    ],
)
def test_the_same_model_comes_again_for_the_same_cohort_alone(noted_once, cohort, once, refused):
    """And only where every client of it must answer, so that the sum is the same sum."""
    ledger = Ledger({})
    ledger.note(Training(1, b"model"), ALL, once=noted_once)
    if refused:
        with pytest.raises(RefusedError, match="from the model of round 1 again"):
            ledger.check(Training(2, b"model"), 2, cohort, once=once)
    else:
        ledger.check(Training(2, b"model"), 2, cohort, once=once)


def test_the_ledger_grows_and_is_kept_in_memory_under_its_own_label():
    memory: dict = {}
    for server_round in (1, 2, 3):
        Ledger(memory).note(Training(server_round, bytes([server_round])), ALL, once=True)
    assert set(memory) == {LEDGER}
    assert memory[LEDGER]["rounds"] == [1, 2, 3]
    assert memory[LEDGER]["models"] == [b"\x01", b"\x02", b"\x03"]


def test_models_that_differ_in_one_bit_have_other_digests():
    model = torch.linspace(-1, 1, 50)
    other = model.clone()
    other[7] = torch.nextafter(other[7], torch.tensor(2.0))
    assert model_digest(model) == model_digest(model.clone())
    assert model_digest(model) != model_digest(other)
    assert model_digest(model) != model_digest(model.double())


@pytest.mark.parametrize(
    ("guards", "threshold", "profile", "why"),
    [
        (Guards(minimum_participants=6), 0, "default", "5 participants, .* at least 6"),
        (Guards(smallest_threshold=4), 3, "default", "threshold of 3 .* at least 4"),
        (Guards(minimum_participants=5), 3, "default", "threshold of 3 .* at least 5"),
        (Guards(smallest_profile="wide"), 0, "default", "profile default promises"),
        (Guards(), 0, "light", "profile light promises 39 .* wants 69"),
    ],
)
def test_terms_that_promise_less_are_refused(guards, threshold, profile, why):
    agreement = Agreement(1, 0, (1, 2, 3, 4, 5), profile, "coefficients", threshold)
    with pytest.raises(RefusedError, match=why):
        guards.check_terms(agreement)
    Guards.none().check_terms(agreement)


def test_terms_that_promise_enough_are_taken():
    guards = Guards(minimum_participants=5, smallest_threshold=4, smallest_profile="default")
    for profile, threshold in (("default", 0), ("wide", 0), ("default", 5)):
        guards.check_terms(Agreement(1, 0, (1, 2, 3, 4, 5), profile, "coefficients", threshold))


def test_rounds_count_anew_in_another_run_and_models_do_not():
    memory: dict = {}
    Ledger(memory, b"first").note(Training(4, b"model"), ALL, once=True)
    other = Ledger(memory, b"second")
    assert (Ledger(memory, b"first").latest, other.latest) == (4, -1)
    other.check(Training(1, b"new"), 1, ALL, once=True)
    with pytest.raises(RefusedError, match="from the model of round 4 again"):
        other.check(Training(1, b"model"), 1, ALL, once=True)
    other.note(Training(1, b"new"), ALL, once=True)
    assert Ledger(memory, b"first").latest == 4
    assert Ledger(memory, b"second").latest == 1


def test_the_stricter_of_two_guards_has_the_higher_of_every_bound():
    own = Guards(minimum_participants=5, smallest_profile="default")
    asked = Guards(minimum_participants=4, smallest_threshold=7, smallest_profile="light")
    wanted = Guards(minimum_participants=5, smallest_threshold=7, smallest_profile="default")
    assert own.stricter(asked) == wanted
    assert asked.stricter(own) == wanted


@pytest.mark.parametrize(
    "spoilt",
    ["", "{", "[]", '{"rounds": [1]}', '{"rounds": [1], "runs": [], "models": [], "cohorts": []}'],
)
def test_a_ledger_that_cannot_be_read_is_not_an_empty_one(spoilt, tmp_path):
    path = tmp_path / "ledger"
    assert LedgerFile(path).read() is None
    path.write_text(spoilt)
    with pytest.raises(RefusedError, match="cannot be read"):
        LedgerFile(path).read()


def test_a_ledger_without_a_place_refuses(tmp_path):
    file = LedgerFile(tmp_path / "no" / "x")
    with pytest.raises(RefusedError, match="cannot be kept"), file.held():
        pass


def test_a_ledgers_file_gives_back_what_it_was_given(tmp_path):
    memory: dict = {}
    Ledger(memory, b"run").note(Training(3, b"\x00\xff"), ALL, once=True)
    file = LedgerFile(tmp_path / "ledger")
    file.write(memory[LEDGER])
    assert file.read() == memory[LEDGER]
    assert json.loads(file.path.read_text())["models"] == ["00ff"]


def test_two_processes_of_a_client_answer_one_after_the_other(tmp_path):
    order: list[str] = []
    first, second = LedgerFile(tmp_path / "ledger"), LedgerFile(tmp_path / "ledger")
    began = threading.Event()

    def other() -> None:
        began.set()
        with second.held():
            order.append("second")

    with first.held():
        thread = threading.Thread(target=other)
        thread.start()
        began.wait()
        thread.join(timeout=0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
