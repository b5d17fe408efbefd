"""What an aggregator has open, which epochs' labels count, and what a digest tells apart."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedguard.enrolment import reasons
from fedguard.enrolment.aggregator import Admissions
from fedguard.enrolment.digests import content_digest
from fedguard.enrolment.groups import Group, LabelTable, form_groups
from fedguard.enrolment.local import KeyedBytes, LocalLabels
from fedguard.enrolment.reasons import NotAdmittedError
from fedguard.enrolment.roster import Roster
from fedguard.enrolment.tickets import Place, label_of

A, B = bytes(16), bytes([1]) * 16
SOME, OTHER = (hashlib.sha256(text).digest() for text in (b"some", b"other"))
SEEDS = [bytes([number]) * 32 for number in range(3)]


def refused(attempt) -> str:
    with pytest.raises(NotAdmittedError) as caught:
        attempt()
    return caught.value.reason


def test_the_first_update_of_a_handle_counts_and_a_refused_one_does_not_replace_it():
    admissions = Admissions()
    admissions.open(Place(1))
    admissions.admit(B, SOME)
    admissions.admit(A, SOME)  # the same contents under another handle are another's
    assert admissions.handles == (A, B)
    assert refused(lambda: admissions.admit(B, OTHER)) == reasons.SECOND
    assert refused(lambda: admissions.admit(B, SOME)) == reasons.REPEATED
    assert refused(lambda: admissions.admit(B, OTHER)) == reasons.SECOND
    assert admissions.handles == (A, B)


def test_opening_the_same_place_again_forgets_nothing_and_the_next_one_all():
    admissions = Admissions()
    for place in (Place(1), Place(1, 1), Place(2), Place(7)):
        admissions.open(place)
        assert admissions.handles == ()
        admissions.admit(A, SOME)
        admissions.open(place)
        assert refused(lambda: admissions.admit(A, SOME)) == reasons.REPEATED


def test_an_earlier_place_does_not_open_and_changes_nothing():
    admissions = Admissions()
    admissions.open(Place(4, 2))
    admissions.admit(A, SOME)
    for early in (Place(4, 1), Place(4), Place(3, 9), Place(0)):
        with pytest.raises(ValueError, match="comes before"):
            admissions.open(early)
        assert (admissions.place, admissions.handles) == (Place(4, 2), (A,))


def test_the_registrar_takes_the_newest_round_and_the_one_before_it():
    parties = LocalLabels(4, 2, seed=0, epoch_rounds=100)
    told = {}
    for number in (10, 9, 11, 10, 9, 10, 12, 10, 11):
        raw = parties.members[0].ticket(parties.name, Place(number), SOME)
        try:
            parties.registrar.access(parties.name, Place(number), raw)
            told.setdefault(number, []).append(None)
        except NotAdmittedError as error:
            told.setdefault(number, []).append(error.reason)
    late = reasons.CLOSED_ROUND
    assert told == {10: [None, None, None, late], 9: [None, late], 11: [None, None], 12: [None]}


@pytest.mark.parametrize("epoch_rounds", [1, 2, 3])
def test_epochs_are_so_many_rounds_each_and_two_of_them_count(epoch_rounds):
    parties = LocalLabels(4, 2, seed=0, epoch_rounds=epoch_rounds)
    parties.place = Place(1)
    raw = parties.ticket(0, Place(1), SOME)
    last = (1 // epoch_rounds + 2) * epoch_rounds - 1  # of the epoch after round 1's
    parties.place = Place(last)
    # Its label is still good, so that what is wrong with it is its round.
    access = parties.registrar.access
    assert refused(lambda: access(parties.name, Place(last), raw)) == reasons.OTHER_ROUND
    parties.place = Place(last + 1)
    assert refused(lambda: access(parties.name, Place(last + 1), raw)) == reasons.WRONG_EPOCH


@pytest.mark.parametrize("now", [0, 1, 3, 10])
def test_a_label_counts_in_its_epoch_and_the_next_and_is_known_from_four_back_to_one_ahead(now):
    table = LabelTable([Group(seed, (index,)) for index, seed in enumerate(SEEDS)], slots=2)
    for index, slot in itertools.product(range(3), range(2)):
        labels = {epoch: label_of(SEEDS[index], epoch, slot) for epoch in range(now + 4)}
        found = {epoch: table.find(label, now) for epoch, label in labels.items()}
        assert {e for e, group in found.items() if group == index} == {max(now - 1, 0), now}
        assert {e for e, group in found.items() if group is None} == {*labels} - {now - 1, now}
        known = {epoch for epoch, label in labels.items() if table.was_ever(label, now)}
        assert known == set(range(max(now - 4, 0), now + 2))
    assert table.find(label_of(SEEDS[0], now, 2), now) is None  # a slot that no group has


def test_a_clock_that_jumps_leaves_no_label_of_another_time_valid():
    table = LabelTable([Group(SEEDS[0], (0,))], slots=1)
    for now in (5, 6, 40, 5, 39, 0, 41):
        valid = [e for e in range(45) if table.find(label_of(SEEDS[0], e, 0), now) == 0]
        assert valid == [e for e in (now - 1, now) if e >= 0]
        assert len(table._tables) <= 6


@pytest.mark.parametrize("k", [2, 3, 7])
def test_every_group_hides_among_k_and_fewer_than_twice_as_many(k):
    for count in range(k, 5 * k):
        groups = form_groups(range(count), k, KeyedBytes(count, 0, "groups"))
        sizes = [len(group.members) for group in groups]
        assert len(sizes) == count // k
        assert k <= min(sizes) <= max(sizes) < 2 * k
        assert sorted(m for group in groups for m in group.members) == list(range(count))


def test_groups_follow_from_the_secret_numbers_and_not_from_who_is_named_first():
    numbers = iter([b"d", b"a", b"c", b"b", *SEEDS])
    groups = form_groups([10, 11, 12, 13], 2, lambda _: next(numbers))
    assert groups == [Group(SEEDS[0], (11, 13)), Group(SEEDS[1], (12, 10))]


def content(array: np.ndarray, **metrics: float) -> RecordDict:
    return RecordDict(
        {"arrays": ArrayRecord({"w": Array(array)}), "metrics": MetricRecord(dict(metrics))}
    )


def test_a_digest_written_by_hand_is_the_contents():
    array = Array(np.array([1.0, -2.0], dtype=np.float32))
    text = [b"arrays", b"ArrayRecord", b"w", b"array", b"float32", b"(2,)", b"numpy.ndarray"]
    text += [array.data]
    text += [b"metrics", b"MetricRecord", b"n", b"int", b"3"]
    told = b"".join(len(part).to_bytes(8, "big") + part for part in text)
    mine = content(np.array([1.0, -2.0], dtype=np.float32), n=3)
    assert content_digest(mine) == hashlib.sha256(told).digest()
    assert content_digest(RecordDict()) == hashlib.sha256(b"").digest()


def test_a_digest_does_not_depend_on_the_order_in_which_records_were_made():
    records = {"a": MetricRecord({"x": 1, "y": 2}), "b": ConfigRecord({"z": "1"})}
    turned = {"b": ConfigRecord({"z": "1"}), "a": MetricRecord({"y": 2, "x": 1})}
    assert content_digest(RecordDict(records)) == content_digest(RecordDict(turned))


def test_a_digest_tells_arrays_apart_by_shape_dtype_and_every_bit():
    base = np.array([0.0, 1.0, 2.0, 3.0], dtype=np.float32)
    arrays = [
        base,
        base * [-1, 1, 1, 1],
        (base * [-1, 1, 1, 1]).astype(np.float32),  # negative zero
        base[::-1].copy(),
        base.reshape(2, 2),
        base.reshape(4, 1),
        base.astype(np.float64),
        base.astype(np.int32),
        base.view(np.int32),
        np.nextafter(base, np.float32(9)),
    ]
    assert len({content_digest(content(array)) for array in arrays}) == len(arrays)
    assert content_digest(content(base)) == content_digest(content(base.copy()))


def test_a_digest_tells_arrays_apart_by_how_their_bytes_are_to_be_read():
    plain = Array(np.zeros(2, dtype=np.float32))
    other = Array(plain.dtype, plain.shape, "another-serialisation", plain.data)
    digests = {
        content_digest(RecordDict({"arrays": ArrayRecord({"w": array})}))
        for array in (plain, other)
    }
    assert len(digests) == 2


def test_a_digest_tells_values_apart_by_type_and_where_they_stand():
    values = [1, 1.0, True, "1", b"1", [1], [1.0], ["1"], [b"1"], [1, 1], ["1", "1"], ["11"], []]
    values += [0.0, -0.0, 0, False, "", b"", [""], [b""], [0.0], [-0.0], ["a", ""], ["", "a"]]
    records = [RecordDict({"c": ConfigRecord({"x": value})}) for value in values]
    records += [
        RecordDict({"c": ConfigRecord({"y": 1})}),
        RecordDict({"d": ConfigRecord({"x": 1})}),
        RecordDict({"c": MetricRecord({"x": 1})}),
        RecordDict({"c": ConfigRecord(), "x": ConfigRecord()}),
        RecordDict({"c": ConfigRecord()}),
        RecordDict({"c": ConfigRecord({"x": 1, "y": 2})}),
        RecordDict({"c": ConfigRecord({"x": 2, "y": 1})}),
    ]
    assert len({content_digest(record) for record in records}) == len(records)


def test_a_rosters_ticket_is_round_exchange_digest_and_tag_and_no_shorter_or_longer():
    roster = Roster()
    raw = roster.ticket(1, 6, SOME, 3)
    assert raw[:42] == (6).to_bytes(8, "big") + (3).to_bytes(2, "big") + SOME
    for wrong in (raw[:-1], raw[1:], raw + b"\0", b"\0" + raw, raw[42:], raw[:42]):
        told = roster.refusal(1, 6, SOME, wrong, 3)
        assert told == "forged: the ticket is not this client's"
    assert roster.refusal(1, 6, SOME, raw, 2) == "replayed: the ticket is of another round"
    assert roster.refusal(1, 6, SOME, raw, 3) is None
    assert roster.refusal(1, 6, SOME, raw, 3) == "a second update in one round"
