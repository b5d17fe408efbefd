"""What every training rule must hold to; see `check_training`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from fedguard.attacks.base import Attack
from fedguard.clients.federation import Federation
from fedguard.clients.training import NOTHING, ClientTrainer
from fedguard.data.dataset import Dataset
from fedguard.testing.outcome import Conformance, run_checks
from fedguard.testing.parameters import check_arguments_of
from fedguard.testing.worlds import small_tools
from fedguard.training.base import TrainingRule, TrainingSettings
from fedguard.training.sgd import Sgd

RuleFactory = Callable[[], TrainingRule]

_SETTINGS = TrainingSettings(lr=0.02, momentum=0.0, weight_decay=0.0, local_epochs=2, batch_size=8)


class Classroom:
    """Two clients with 30 rows each, who train a small classifier by a rule."""

    def __init__(self, rule: TrainingRule) -> None:
        tools = small_tools()
        data = Dataset("toy", tools.x, tools.y, tools.x, tools.y, 4, tuple("abcd"), (0.0,), (1.0,))
        shards = [torch.arange(30), torch.arange(30, 60)]
        none = torch.empty(0, dtype=torch.long)
        federation = Federation(data, shards, frozenset(), Attack(), 0, none)
        self.trainer = ClientTrainer(tools.model, federation, _SETTINGS, 0, rule, rounds=3)
        self.start = self.trainer.global_vector()

    def train(
        self, client: int, server_round: int = 1, config: Mapping[str, Any] = NOTHING
    ) -> Tensor:
        """Return a client's (D,) change of the model."""
        out = torch.empty_like(self.start)
        self.trainer.train(client, server_round, self.start, out, config=config)
        return out

    def loss(self, delta: Tensor) -> float:
        """Return the mean loss of the model after a change, on all rows."""
        data, model = self.trainer.federation.dataset, self.trainer.model
        self.trainer.load_for(0, self.start + delta)
        found = self.trainer.federation.task.evaluate(model.module, data.x_train, data.y_train)
        return float(found["loss"])


def check_training_parameters(make: RuleFactory) -> None:
    """Check that the constructor refuses absurd values of the rule's arguments."""
    check_arguments_of(make, TrainingRule)


def check_learns(make: RuleFactory) -> None:
    """Check that training keeps the numbers finite and lowers the loss."""
    room = Classroom(make())
    delta = room.train(0)
    assert bool(torch.isfinite(delta).all()), "not finite"
    before, after = room.loss(torch.zeros_like(delta)), room.loss(delta)
    assert after < before, f"the loss went from {before:g} to {after:g}"


def check_training_determinism(make: RuleFactory) -> None:
    """Check that seed, round and client decide, not global random state."""
    found = []
    for noise in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            found.append(Classroom(make()).train(0))
    assert torch.equal(*found), "determinism: two trainings alike gave different models"


def check_no_traces(make: RuleFactory) -> None:
    """Check that one client's training leaves no trace in the next one's."""
    alone = Classroom(make()).train(1)
    room = Classroom(make())
    room.train(0)
    same = torch.equal(alone, room.train(1))
    assert same, "client 1 trains otherwise after client 0; keep state in local.memory"


def check_memory(make: RuleFactory) -> None:
    """Check that a rule that remembers keeps tensors, by which training goes on alike."""
    rule = make()
    if not rule.remembers:
        raise SkipTest("the rule remembers nothing")
    room = Classroom(rule)
    room.train(0)
    memory = room.trainer.memories[0]
    assert memory, "remembers is set, but local.memory stayed empty"
    for name, value in memory.items():
        assert isinstance(value, Tensor), f"memory {name!r} is {type(value).__name__}, no tensor"
    other = Classroom(make())
    other.trainer.memories = {0: copy.deepcopy(memory)}
    same = torch.equal(room.train(0, 2), other.train(0, 2))
    assert same, "a client whose memory was handed over trains otherwise; state lies elsewhere"


def check_reads(make: RuleFactory) -> None:
    """Check that the keys it reads are words, and that the learning rate is obeyed."""
    rule = make()
    assert all(isinstance(key, str) for key in rule.reads), "reads holds what is no word"
    if "lr" not in rule.reads:
        raise SkipTest("the rule does not read lr")
    trainable = slice(0, Classroom(make()).trainer.layout.num_trainable)
    still = Classroom(make()).train(0, config={"lr": 0.0})[trainable]
    assert not bool(still.any()), "lr 0 from the server, and the model moved"


def check_plain(make: RuleFactory) -> None:
    """Check that a rule that calls itself plain trains as SGD does, to the last bit."""
    rule = make()
    if not rule.plain(NOTHING):
        raise SkipTest("the rule does not call itself plain SGD")
    room, other = Classroom(rule), Classroom(Sgd())
    other.trainer.settings = rule.settings_for(_SETTINGS, NOTHING, 2, 3)
    same = torch.equal(room.train(0, 2), other.train(0, 2))
    assert same, "plain() is true, but it trains otherwise than SGD: batched executors would err"


TRAINING_CHECKS: tuple[Callable[[RuleFactory], None], ...] = (
    check_training_parameters,
    check_learns,
    check_training_determinism,
    check_no_traces,
    check_memory,
    check_reads,
    check_plain,
)
"""Every check of a training rule, in the order in which `check_training` runs them."""


def check_training(part: TrainingRule | RuleFactory) -> Conformance:
    """Run every check of `TRAINING_CHECKS` on a training rule.

    Parameters
    ----------
    part : TrainingRule or callable
        A rule, of which copies are tested, or a callable that makes one, such as its class.

    Returns
    -------
    Conformance
        What passed, and what was skipped for which reason.

    Raises
    ------
    AssertionError
        With a line for everything that failed: the check, the input and what was seen.
    """
    make: RuleFactory = (lambda: copy.deepcopy(part)) if isinstance(part, TrainingRule) else part
    return run_checks(TRAINING_CHECKS, make)
