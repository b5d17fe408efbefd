"""Plain CKKS as a strategy."""

from __future__ import annotations

import pytest

pytest.importorskip("tenseal")
from encrypted_clients import Run, error, small

from fedguard.encryption.ckks import Ckks
from fedguard.errors import ConfigurationError, RunError


def make(clients: int = 5, **options) -> Ckks:
    return Ckks(**options, **small(clients))


def test_rounds_add_the_weighted_mean_in_four_trips_under_one_key():
    run = Run(make())
    trips = []
    for server_round in (1, 2, 3):
        before = run.grid.trip
        added = run.round(server_round)
        trips.append(run.grid.trip - before)
        assert error(added, run.inner.mean(server_round)) < 1e-5
    assert trips == [6, 4, 4]


def test_vanished_clients_are_left_out():
    run = Run(make(), lost=lambda trip, party, stages: trip == 6 and party == 1)
    run.round(1)
    added = run.round(2)
    assert error(added, run.inner.mean(2, [0, 2, 3, 4])) < 1e-5
    assert run.seen[-1][0].malformed == {1: "no reply"}


def test_openers_that_all_vanish_are_one_clear_error():
    run = Run(make(), lost=lambda trip, party, stages: "share" in stages)
    with pytest.raises(RunError, match="who were to open the sum, did not; nothing was decrypted"):
        run.round(1)


def test_groups_have_keys_of_their_own():
    run = Run(make(9, groups=3, rule="median"), clients=9)
    run.round(1)
    views = {group._server.view for group in run.strategy._groups}
    assert len(views) == 3
    assert len(run.seen[-1][0].node_ids) == 9


def test_rules_need_groups_and_seeds_are_refused():
    with pytest.raises(ConfigurationError, match="set groups=m"):
        make(rule="krum")
    with pytest.raises(ConfigurationError, match="has no seed"):
        make(insecure_seed=1)


def test_the_description_names_the_weakness():
    text = make().describe(10)
    assert "10 clients sharing one key" in text
    assert "against the server alone" in text
