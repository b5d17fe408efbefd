"""A rehearsal asks the rule as it stands, by the ids that it knows, and leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch

from fedguard import registry
from fedguard.config import parse
from fedguard.grids.veil import Handles
from fedguard.runs.rule_copy import copy_of_rule
from fedguard.traits import traits_of
from fedguard.updates import ClientUpdates

CLIENTS = 8
HANDLES = Handles(7)


def updates(seed: int, ids=range(CLIENTS)) -> ClientUpdates:
    stream = torch.Generator().manual_seed(seed)
    common = torch.randn(12, generator=stream)
    deltas = common + torch.randn(CLIENTS, 12, generator=stream)
    return ClientUpdates.from_matrix(deltas, None, list(ids))


def veiled(seed: int) -> ClientUpdates:
    return updates(seed, [HANDLES.of(client) for client in range(CLIENTS)])


def deployed(name: str):
    config = parse({"dataset": "digits", "strategy": name})
    return config, registry.create("strategy", name)


def test_a_try_is_not_remembered_and_the_deployed_rules_memory_is_the_copys():
    config, rule = deployed("foolsgold")
    rehearse = copy_of_rule(config, rule, HANDLES)
    rule.decide(veiled(0))
    first = rehearse(updates(1))
    rehearse(updates(2))
    assert torch.equal(rehearse(updates(1)), first)
    alike = copy.deepcopy(rule)
    assert torch.equal(alike.decide(veiled(1)).delta, first)
    forgetful = registry.create("strategy", "foolsgold")
    assert not torch.allclose(forgetful.decide(veiled(1)).delta, first)
    assert torch.equal(rule.decide(veiled(1)).delta, first), "the deployed rule heard no rehearsal"


def test_rounds_in_a_row_are_decided_each_with_all_before_it():
    config, rule = deployed("foolsgold")
    rule.decide(veiled(0))
    copied = copy_of_rule(config, rule, HANDLES)
    found = copied.verdicts([updates(1), updates(2)])
    assert torch.equal(copied(updates(2)), copied.verdicts([updates(2)])[0].delta)
    assert not torch.allclose(copied(updates(2)), found[1].delta)
    after = [rule.decide(veiled(seed)) for seed in (1, 2)]
    for mine, theirs in zip(found, after, strict=True):
        assert torch.equal(mine.delta, theirs.delta)
        assert torch.equal(mine.weights, theirs.weights)


@pytest.mark.parametrize("name", registry.names("strategy"))
def test_every_rule_that_can_be_copied_takes_its_first_state(name):
    config, rule = deployed(name)
    if not traits_of(rule).copyable:
        assert copy_of_rule(config, rule, None) is None
        return
    registry.create("strategy", name).load_state(rule.state())
