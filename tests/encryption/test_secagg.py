"""SecAgg+ through Flower's own client mod."""

from __future__ import annotations

import pytest
from encrypted_clients import LAYOUT, FixedClients, Losing, error, first_model, small
from flwr.app import ConfigRecord

from fedguard.encryption.secagg import SecAggPlus
from fedguard.encryption.secagg_clients import SecAggClients
from fedguard.errors import ConfigurationError, RunError
from fedguard.testing import check_strategy


class SecAggRun:
    def __init__(self, clients: int = 6, lost=lambda *_: False, **options) -> None:
        self.strategy = SecAggPlus(**options, **small(clients))
        self.inner = FixedClients(clients)
        self.grid = Losing(SecAggClients(self.inner), lost)
        self.seen = []
        self.strategy.observers.append(lambda _, u, v: self.seen.append((u, v)))

    def round(self, server_round: int):
        arrays = first_model()
        before = LAYOUT.vector_from_arrays(arrays).double()
        messages = self.strategy.configure_train(server_round, arrays, ConfigRecord(), self.grid)
        replies = self.grid.send_and_receive(messages)
        found, self.metrics = self.strategy.aggregate_train(server_round, replies)
        return LAYOUT.vector_from_arrays(found).double() - before


@pytest.mark.parametrize("num_shares", [1.0, 0.5])
def test_rounds_add_the_weighted_mean(num_shares):
    run = SecAggRun(num_shares=num_shares)
    for server_round in (1, 2):
        added = run.round(server_round)
        assert error(added, run.inner.mean(server_round)) < 2e-4
    assert run.metrics["trips"] == 4
    assert run.seen[-1][0].node_ids == tuple(range(6))


@pytest.mark.parametrize("trip", [0, 1, 2])
def test_vanished_clients_are_unmasked_and_left_out(trip):
    run = SecAggRun(lost=lambda now, party, _: now >= trip and party == 3)
    added = run.round(1)
    assert error(added, run.inner.mean(1, [0, 1, 2, 4, 5])) < 2e-4
    assert run.seen[-1][0].malformed == {3: "no reply"}


def test_a_client_that_vanishes_after_upload_stays_in_the_sum():
    run = SecAggRun(lost=lambda now, party, _: now >= 3 and party == 3)
    assert error(run.round(1), run.inner.mean(1)) < 2e-4


def test_too_few_left_is_one_clear_error():
    run = SecAggRun(lost=lambda now, party, _: now == 3 and party > 1)
    with pytest.raises(RunError, match="nothing was unmasked"):
        run.round(1)
    with pytest.raises(RunError, match="at least 3 clients"):
        SecAggRun(2).round(1)


@pytest.mark.parametrize(
    "options", [{"num_shares": 0.0}, {"reconstruction_threshold": 1.5}, {"max_weight": -1}]
)
def test_bad_options_name_the_field(options):
    with pytest.raises(ConfigurationError) as caught:
        SecAggPlus(**options)
    assert caught.value.field in options


def test_as_a_rule_on_plaintext_it_conforms():
    check_strategy(SecAggPlus)
