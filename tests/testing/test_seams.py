"""The suites of tasks, training, repairs, audits, enrolment: ours pass, broken ones do not."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedguard import registry
from fedguard.audits.base import Audit
from fedguard.config import parse
from fedguard.data.histories import NOTHING, user_mark
from fedguard.enrolment.roster import Roster
from fedguard.models.text_transformer import TextTransformer
from fedguard.repairs.base import Repair
from fedguard.runs.simulation import Simulation
from fedguard.tasks.classification import Classification
from fedguard.testing import (
    check_audit,
    check_enrolment,
    check_repair,
    check_task,
    check_training,
    small_tools,
)
from fedguard.training.base import TrainingRule
from fedguard.training.sgd import Sgd


def rows_of(name: str):
    """A model and rows for each registered task."""
    tools = small_tools()
    if name == "classification":
        return tools.model, tools.x, tools.y
    if name == "hashing":
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(tools.x[0].numel(), 16)), tools.x, tools.y
    if name == "text-classification":
        torch.manual_seed(0)
        words = torch.randint(1, 30, (12, 5), generator=torch.Generator().manual_seed(0))
        return TextTransformer((5,), 3, vocabulary=30, width=8, heads=2), words, words[:, 0] % 3
    if name == "link-prediction":
        torch.manual_seed(0)
        pairs = torch.combinations(torch.arange(6))
        network = nn.Sequential(nn.Embedding(6, 8), nn.Flatten(), nn.Linear(16, 2))
        return network, pairs, (pairs.sum(dim=1) % 2).to(torch.int64)
    if name == "recommendation":
        torch.manual_seed(0)
        items = torch.randint(1, 41, (12, 6), generator=torch.Generator().manual_seed(0))
        follows = torch.cat([items[:, 1:], torch.full((12, 1), NOTHING)], dim=1)
        marks = user_mark(torch.arange(12))[:, None]
        network = nn.Sequential(nn.Embedding(41, 16), nn.Linear(16, 41))
        return network, items, torch.cat([follows, marks], dim=1)
    table = torch.arange(40).view(8, 5) % 7
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 7))
    if name == "preference":
        pairs = torch.stack([table, table.flip(1)], dim=1)
        answers = torch.stack([(table + 1) % 7, (table + 3) % 7], dim=1)
        return network, pairs, torch.cat([answers, torch.full((8, 2, 1), -1)], dim=2)
    return network, table, (table + 1) % 7


@cache
def scene_of(name: str):
    """A run that the registered audits can be shown."""
    special = {"strategy": "soul", "unlearn": [{"client": 1, "round": 2}]}
    language = {"dataset": "grammar", "audit": "raven", "strategy": "fedavg"}
    values = {"unlearning": special, "raven": language}.get(name, {"strategy": "fedavg"})
    return parse({"clients": 4, "rounds": 4, "attack": "none", "partition": "iid", **values})


@pytest.mark.parametrize("name", registry.names("task"))
def test_every_registered_task_conforms(name):
    found = check_task(registry.find("task", name), *rows_of(name))
    assert len(found.passed) == 5


# `btu` needs an embedding of tokens; tests/repairs/test_btu.py has one.
@pytest.mark.parametrize("name", sorted(set(registry.names("training")) - {"btu"}))
def test_every_registered_training_rule_conforms(name):
    assert len(check_training(registry.find("training", name)).passed) >= 5


def test_rules_with_arguments_conform_too():
    for name, arguments in (
        ("adam", {"keep": True}),
        ("sgd", {"schedule": "cosine"}),
        ("sgd", {"schedule": "step", "every": 1}),
    ):
        assert check_training(registry.create("training", name, **arguments)).passed


@pytest.mark.parametrize("name", sorted(set(registry.names("repair")) - {"btu"}))
def test_every_registered_repair_conforms(name):
    assert len(check_repair(registry.find("repair", name)).passed) >= 4


@pytest.mark.parametrize("name", registry.names("audit"))
def test_every_registered_audit_conforms(name, tmp_path):
    def scene():
        world = Simulation(scene_of(name)).world
        world.open(tmp_path, None)
        return world.tending.scene

    assert len(check_audit(registry.find("audit", name), scene).passed) >= 2


@pytest.mark.parametrize("name", registry.names("enrolment"))
def test_every_registered_enrolment_conforms(name):
    assert len(check_enrolment(registry.find("enrolment", name)).passed) >= 2


class MeanLoss(Classification):
    def losses(self, output, y):
        return functional.cross_entropy(output, y).expand(len(y))


class WorseIsBetter(Classification):
    higher_is_better = False


class FewStrata(Classification):
    def strata(self, y):
        return y[:2]


class SeesNoFault(Classification):
    def output_fault(self, output, count, num_classes):
        return None


class Headless(Classification):
    headline = "beauty"


class Restless(Classification):
    def evaluate(self, module, x, y):
        with torch.no_grad():
            next(iter(module.parameters())).add_(1.0)
        return super().evaluate(module, x, y)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (MeanLoss, "check_losses: losses, row"),
        (WorseIsBetter, "lower is said to be better"),
        (FewStrata, "check_strata: strata of shape (2,)"),
        (SeesNoFault, "check_form: output_fault, one row too few: accepted"),
        (Headless, "tells no number 'beauty'"),
        (Restless, "no mutation: evaluation changed the model"),
    ],
)
def test_a_broken_task_is_told_what_failed(task, words):
    with pytest.raises(AssertionError) as caught:
        check_task(task, *rows_of("classification"))
    assert words in str(caught.value)


class Climbs(TrainingRule):
    def step(self, local, update):
        local.gradient.neg_()
        update()


class Random(TrainingRule):
    def step(self, local, update):
        update()
        local.vector.add_(torch.randn_like(local.vector), alpha=1e-4 * local.settings.lr)


class LeavesTraces(TrainingRule):
    def __init__(self) -> None:
        self.steps = 0

    def step(self, local, update):
        self.steps += 1
        local.gradient.mul_(1.0 / self.steps)
        update()


class ForgetsToRemember(TrainingRule):
    remembers = True


class SaysPlain(TrainingRule):
    def plain(self, config):
        return True

    def loss(self, local, losses):
        return losses.square().mean()


class Deaf(TrainingRule):
    def step(self, local, update):
        local.vector.sub_(0.02 * local.gradient)


class Believes(Sgd):
    def __init__(self, *, power: float = 2.0) -> None:
        super().__init__()
        self.power = power


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Climbs, "check_learns: the loss went from"),
        (Random, "check_training_determinism: determinism"),
        (LeavesTraces, "check_no_traces: client 1 trains otherwise"),
        (ForgetsToRemember, "check_memory: remembers is set"),
        (SaysPlain, "check_plain: plain() is true"),
        (Deaf, "check_reads: lr 0 from the server"),
        (Believes, "check_training_parameters: power=nan: accepted"),
    ],
)
def test_a_broken_training_rule_is_told_what_failed(rule, words):
    with pytest.raises(AssertionError) as caught:
        check_training(rule)
    assert words in str(caught.value)


class Explodes(Repair):
    def mend(self, tools, rng):
        with torch.no_grad():
            next(iter(tools.model.parameters())).fill_(float("inf"))
        return {}


class Dice(Repair):
    def mend(self, tools, rng):
        with torch.no_grad():
            tools.model[3].bias.add_(torch.rand(4))
        return {}


class TellsRound(Repair):
    def mend(self, tools, rng):
        return {"round": 3}


class Thaws(Repair):
    def mend(self, tools, rng):
        with torch.no_grad():
            for value in tools.model.parameters():
                value.requires_grad_().mul_(0.5)
        return {}


class EatsRows(Repair):
    def mend(self, tools, rng):
        tools.x.zero_()
        return {}


@pytest.mark.parametrize(
    ("repair", "words"),
    [
        (Explodes, "check_model_kept: mend, a model times 1: the mended model is not finite"),
        (Dice, "check_repair_determinism: determinism"),
        (TellsRound, "figure 'round' is the record's own"),
        (Thaws, "check_frozen: a frozen parameter"),
        (EatsRows, "the server's rows changed"),
    ],
)
def test_a_broken_repair_is_told_what_failed(repair, words):
    with pytest.raises(AssertionError) as caught:
        check_repair(repair)
    assert words in str(caught.value)


class Good(Audit):
    def look(self, server_round, vector, rng):
        return {"length": float(vector.norm())}


class Blind(Good):
    def due(self, server_round, rounds):
        return False


class Meddles(Good):
    def look(self, server_round, vector, rng):
        vector.mul_(2.0)
        return {}


class Guesses(Good):
    def look(self, server_round, vector, rng):
        return {"guess": float(torch.rand(1))}


class Opaque(Good):
    def look(self, server_round, vector, rng):
        return {"model": vector}


@pytest.mark.parametrize(
    ("audit", "words"),
    [
        (Blind, "check_due: due in none of 4 rounds"),
        (Meddles, "check_look: look, round 4: no mutation: the global model changed"),
        (Guesses, "check_audit_determinism"),
        (Opaque, "check_look: look, round 4: JSON cannot hold it"),
    ],
)
def test_a_broken_audit_is_told_what_failed(audit, words, tmp_path):
    world = Simulation(scene_of("plain")).world
    world.open(tmp_path, None)
    assert check_audit(Good, lambda: world.tending.scene).passed
    with pytest.raises(AssertionError) as caught:
        check_audit(audit, lambda: world.tending.scene)
    assert words in str(caught.value)


class Open(Roster):
    def refusal(self, client, server_round, digest, ticket, exchange=0):
        return None


class Once(Roster):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def refusal(self, client, server_round, digest, ticket, exchange=0):
        if client in self.seen:
            return "seen"
        self.seen.add(client)
        return super().refusal(client, server_round, digest, ticket, exchange)


class Mute(Roster):
    def refusal(self, client, server_round, digest, ticket, exchange=0):
        return "" if super().refusal(client, server_round, digest, ticket, exchange) else None


@pytest.mark.parametrize(
    ("door", "words"),
    [
        (Open, "check_refuses: replayed: admitted"),
        (Once, "check_admits: client 0 in round 2: refused: seen"),
        (Mute, "no reason"),
    ],
)
def test_a_broken_enrolment_is_told_what_failed(door, words):
    with pytest.raises(AssertionError) as caught:
        check_enrolment(door)
    assert words in str(caught.value)
