"""Clients that raise, call `sys.exit` or never come back are lost, and nobody else is."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import torch
from flwr.app import Message, MessageType, RecordDict

from fedguard.clients.desk import Desk
from fedguard.clients.executors import Cohort, ReuseExecutor
from fedguard.clients.watch import ClientError, ClientLateError, Watch
from fedguard.errors import ConfigurationError
from fedguard.grids.inprocess import InProcessGrid
from fedguard.training.sgd import Sgd
from tests.clients.small_federations import make_trainer

BAD = 2


class Stumbles(Sgd):
    """SGD that one client does not survive."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def begin(self, local):
        if local.client != BAD:
            return
        if self.how == "raise":
            raise KeyError("no data")
        if self.how == "exit":
            sys.exit(3)
        while True:
            time.sleep(0.01)


REASONS = {
    "raise": "KeyError: 'no data'",
    "exit": "the client called sys.exit(3)",
    "hang": "no reply within 0.3 s (round_timeout)",
}


def trained(rule, timeout, threads=1):
    trainer = make_trainer(rule=rule)
    vector = trainer.model.whole_vector()
    deltas = torch.full((5, len(vector)), 7.0)
    executor = ReuseExecutor(trainer, threads)
    found = executor.train(Cohort((0, 1, 2, 3, 4), 1, vector, timeout=timeout), deltas)
    executor.close()
    return deltas, found


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("how", ["raise", "exit", "hang"])
def test_one_client_is_lost_with_its_reason_and_the_others_train_as_ever(how, threads):
    expected, whole = trained(Sgd(), None)
    deltas, found = trained(Stumbles(how), 0.3, threads)
    assert found.failed == {BAD: REASONS[how]}
    assert not deltas[BAD].any()
    assert found.examples[BAD] == 0
    rest = [0, 1, 3, 4]
    assert torch.equal(deltas[rest], expected[rest])
    assert torch.equal(found.examples[rest], whole.examples[rest])
    assert whole.failed == {}


def test_a_client_that_raises_is_lost_where_nobody_is_timed():
    deltas, found = trained(Stumbles("raise"), None)
    assert found.failed == {BAD: REASONS["raise"]}
    assert not deltas[BAD].any()


def test_what_a_lost_client_still_does_touches_nobody():
    """It comes to after its time, and writes into a trainer that nobody uses any more."""
    trainer = make_trainer()
    desk = Desk(trainer)
    woken, written = threading.Event(), threading.Event()

    def sleeper(own):
        try:
            woken.wait()
        finally:  # even the exception that ends it does not keep it from writing
            own.model.vector.fill_(9.0)
            own.memories[0] = {"late": torch.ones(1)}
            written.set()

    with pytest.raises(ClientLateError, match="no reply"):
        desk.run(sleeper, 0.05)
    woken.set()
    assert written.wait(5)
    assert not (trainer.model.vector == 9.0).any()
    assert trainer.memories == {}
    assert desk.run(lambda own: bool((own.model.vector == 9.0).any()), 5.0) is False


def test_an_endless_loop_is_ended_and_no_thread_keeps_the_process():
    watch = Watch()
    seen: list[threading.Thread] = []

    def endless():
        seen.append(threading.current_thread())
        while True:
            sum(range(100))

    with pytest.raises(ClientLateError):
        watch.call(endless, 0.05)
    seen[0].join(5)
    assert not seen[0].is_alive()
    assert seen[0].daemon
    assert watch.call(lambda: 4, 5.0) == 4
    watch.close()


def test_what_is_wrong_with_the_run_stops_the_run():
    def refused():
        raise ConfigurationError("lr", -1, "at least 0")

    with pytest.raises(ConfigurationError):
        Watch().call(refused, 5.0)
    with pytest.raises(ClientError, match=r"^ZeroDivisionError: division by zero$"):
        Watch().call(lambda: 1 / 0, 5.0)


@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_the_grid_answers_for_a_lost_client_with_an_error(kind):
    trainer = make_trainer(rule=Stumbles("exit"))
    if kind == MessageType.EVALUATE:
        trainer.federation.task.evaluate = lambda *_: sys.exit(3)
    grid = InProcessGrid(trainer)
    arrays = trainer.layout.to_arrays(trainer.model.whole_vector())
    messages = [
        Message(RecordDict({"arrays": arrays}), dst_node_id=client, message_type=kind)
        for client in (BAD, 3)
    ]
    replies = list(grid.send_and_receive(messages, timeout=5.0))
    assert replies[0].error.reason == "the client called sys.exit(3)"
    assert replies[1].has_error() == (kind == MessageType.EVALUATE)
