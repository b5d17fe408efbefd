"""What other fields decide is refused in a part, with what to set instead."""

from __future__ import annotations

import pytest

from fedguard.config import parse
from fedguard.config.filled_in import FILLED_IN, SAMPLING, check_not_filled_in
from fedguard.config.repair_times import RepairTimes
from fedguard.errors import ConfigurationError


@pytest.mark.parametrize("argument", sorted(SAMPLING))
def test_sampling_is_the_configurations(argument):
    with pytest.raises(ConfigurationError) as caught:
        check_not_filled_in("strategy", {argument: 1})
    assert caught.value.field == f"strategy.{argument}"
    instead = SAMPLING[argument]
    assert instead.removeprefix("nothing: ") in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "argument", "field"),
    [
        ("model", "num_classes", "dataset"),
        ("model", "seed", "seed"),
        ("pre", "seed", "seed"),
        ("strategy", "server_data", "server_samples"),
        ("strategy", "latent_layer", "latent_layer"),
    ],
)
def test_every_kind_has_its_own_table(kind, argument, field):
    with pytest.raises(ConfigurationError, match=f"set {field}"):
        check_not_filled_in(kind, {argument: 1})
    check_not_filled_in("attack", {argument: 1})
    assert argument in FILLED_IN


def test_what_nobody_decides_may_be_given():
    check_not_filled_in("strategy", {"max_clusters": 3})
    config = parse({"strategy": {"name": "krum", "assumed_malicious": 0.3}})
    assert config.strategy.arguments == {"assumed_malicious": 0.3}


@pytest.mark.parametrize("field", ["repair", "audit", "enrolment", "training"])
def test_optional_parts_are_parts(field):
    with pytest.raises(ConfigurationError, match=field):
        parse({field: "no-such-part"})
    kept = parse({})
    assert (getattr(kept, field) is None) == (field != "training")
    assert kept.training.name == "sgd"


def test_a_parts_arguments_are_in_the_digest():
    digests = {
        parse({"training": training}).digest()
        for training in ("sgd", "adam", {"name": "adam", "keep": True}, {"name": "sgd", "every": 9})
    }
    assert len(digests) == 4
    assert parse({"workers": 3}).digest() == parse({}).digest()
    assert parse({"repair": "finetune"}).digest() != parse({}).digest()


def test_alarm_times_know_no_round():
    times = RepairTimes("alarm")
    assert times.alarm
    assert not times.due(5, 5)
    assert times.due(1, 5, alarmed=True)
    assert (RepairTimes("every:4").every, RepairTimes("end").every) == (4, 0)
