"""Fields that exclude each other, and the small models of the configuration, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fedguard.config.combinations import check_evaluation, check_start, check_stopping
from fedguard.config.faults import Faults
from fedguard.config.repair_times import RepairTimes
from fedguard.config.requests import UnlearnRequest
from fedguard.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "rounds"),
    [("end", [7]), ("every:3", [3, 6, 7]), ("every:1", [1, 2, 3, 4, 5, 6, 7]), ("every:9", [7])],
)
def test_a_repair_is_due_after_every_rth_round_and_the_last(text, rounds):
    times = RepairTimes(text)
    assert [r for r in range(1, 8) if times.due(r, 7)] == rounds


def test_an_alarm_alone_decides_where_it_is_asked():
    times = RepairTimes("alarm")
    assert [times.due(r, 3, alarmed=r == 2) for r in (1, 2, 3)] == [False, True, False]
    assert not RepairTimes("end").due(2, 3, alarmed=True)


@pytest.mark.parametrize("text", ["every:0", "every:x", "every:-1", "every", "End", "alarm:2", ""])
def test_other_times_are_refused(text):
    with pytest.raises(ConfigurationError) as caught:
        RepairTimes(text)
    assert caught.value.field == "repair_at"


@pytest.mark.parametrize("field", ["dropout", "straggle", "delay", "corrupt", "duplicate"])
def test_a_network_is_faulty_as_soon_as_one_rate_is_above_0(field):
    assert Faults(**{field: 1e-9}).active
    assert not Faults(deadline=1.0, delay_rounds=9, straggle_seconds=5.0).active
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValidationError):
            Faults(**{field: rate})


def test_a_run_that_may_end_early_cannot_wait_for_its_last_round():
    check_stopping(None, "end", 2)
    check_stopping(3, "every:2", 0)
    with pytest.raises(ConfigurationError, match="every:R or alarm") as caught:
        check_stopping(3, "end", 0)
    assert caught.value.field == "repair_at"
    with pytest.raises(ConfigurationError, match="never reach a request") as caught:
        check_stopping(3, None, 1)
    assert caught.value.field == "patience"


def test_what_was_learnt_before_the_run_cannot_be_forgotten_in_it():
    check_start(Path("a.safetensors"), 0)
    check_start(None, 1)
    with pytest.raises(ConfigurationError) as caught:
        check_start(Path("a.safetensors"), 1)
    assert caught.value.field == "start_from"


def test_clients_of_ones_own_bring_their_own_rows():
    check_evaluation(0.0, own_clients=True)
    check_evaluation(0.2, own_clients=False)
    with pytest.raises(ConfigurationError) as caught:
        check_evaluation(0.2, own_clients=True)
    assert caught.value.field == "evaluate_clients"


@pytest.mark.parametrize(
    ("requester", "genuine"), [(None, True), ("server", True), (3, True), (4, False)]
)
def test_only_the_client_itself_and_the_server_may_ask_to_forget(requester, genuine):
    request = UnlearnRequest(client=3, round=5, requester=requester)
    assert request.genuine is genuine
    assert request.whole_client


def test_a_part_of_a_client_is_a_label_or_a_share_not_both():
    assert not UnlearnRequest(client=3, round=5, label=7).whole_client
    assert UnlearnRequest.model_validate({"client": 3, "round": 5, "class": 7}).label == 7
    assert UnlearnRequest(client=3, round=5, share=0.25).told() == "client 3, round 5, share 0.25"
    with pytest.raises(ValidationError, match="not both"):
        UnlearnRequest(client=3, round=5, label=7, share=0.5)
    with pytest.raises(ValidationError, match="alone"):
        UnlearnRequest(rejected=3, client=1, round=2)
    with pytest.raises(ValidationError, match="a client and a round"):
        UnlearnRequest(client=3)
