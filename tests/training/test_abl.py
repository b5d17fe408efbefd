"""ABL step by step: the trap, the isolated rows, the gate, the climb and its undoing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fedguard.errors import ConfigurationError
from fedguard.testing import small_tools
from fedguard.training.abl import AGREED, ISOLATED, Abl
from fedguard.training.base import Local, TrainingSettings

SETTINGS = TrainingSettings(0.1, 0.0, 0.0, 1, 8)


def learnt():
    """Return a small classifier that knows its rows, and the rows."""
    tools = small_tools()
    optimiser = torch.optim.SGD(tools.model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        optimiser.zero_grad()
        functional.cross_entropy(tools.model(tools.x), tools.y).backward()
        optimiser.step()
    return tools


def local_of(tools, memory=None, rows=None):
    from fedguard.models.flat import FlatModel

    flat = FlatModel(tools.model)
    return Local(
        module=flat.module,
        vector=flat.vector,
        gradient=flat.gradient,
        start=flat.vector.clone(),
        settings=SETTINGS,
        client=0,
        server_round=1,
        rounds=3,
        seed=0,
        x=tools.x,
        y=tools.y,
        rows=torch.arange(len(tools.y)) if rows is None else rows,
        velocity=torch.zeros_like(flat.vector),
        memory=memory or {},
    )


def losses_of(tools):
    tools.model.eval()
    with torch.no_grad():
        return functional.cross_entropy(tools.model(tools.x), tools.y, reduction="none")


@pytest.mark.parametrize("form", ["ascent", "flooding"])
def test_the_trap_climbs_below_gamma_and_descends_above(form):
    rule, tools = Abl(gamma=0.5, form=form), small_tools()
    local = local_of(tools)
    local.scratch.update(first=True, gone=None)
    for value, sign in ((0.2, -1.0), (0.9, 1.0)):
        losses = torch.full((4,), value, requires_grad=True)
        rule.loss(local, losses).backward()
        torch.testing.assert_close(losses.grad, torch.full((4,), sign / 4.0))
    assert float(rule.loss(local, torch.full((4,), 0.2))) == pytest.approx(
        -0.2 if form == "ascent" else 0.8
    )


def test_the_first_stage_lasts_until_the_mean_loss_is_below_twice_gamma():
    tools = learnt()
    mean = float(losses_of(tools).mean())
    early, late = local_of(tools), local_of(tools)
    Abl(gamma=0.4 * mean).begin(early)
    Abl(gamma=0.6 * mean).begin(late)
    assert early.scratch["first"]
    assert not late.scratch["first"]
    assert len(early.memory[ISOLATED]) == 0


def test_the_lowest_losses_are_isolated_and_their_place_in_the_shard_is_kept():
    tools = learnt()
    rows = torch.arange(59, -1, -1)  # the shard counts from the back
    local = local_of(tools, rows=rows)
    Abl(gamma=5.0, share=0.2).begin(local)
    expected = losses_of(tools)[rows].argsort(stable=True)[:12].sort().values
    assert torch.equal(local.memory[ISOLATED], expected)
    few = local_of(tools)
    Abl(gamma=5.0, share=0.01).begin(few)
    assert len(few.memory[ISOLATED]) == 8


def isolated_twice(tools, rule):
    """Return a client in the round after one that isolated the same rows."""
    first = local_of(tools)
    rule.begin(first)
    second = local_of(tools, memory=dict(first.memory))
    rule.begin(second)
    return second


def test_the_gate_opens_for_two_rounds_alike_and_one_label():
    tools = learnt()
    open_gate = isolated_twice(tools, Abl(gamma=5.0, purity=0.0))
    assert float(open_gate.memory[AGREED]) == 1.0
    assert len(open_gate.scratch["gone"]) == 8
    labels = tools.y[open_gate.memory[ISOLATED]].bincount()
    mixed = float(labels.max()) / 8.0
    closed = isolated_twice(tools, Abl(gamma=5.0, purity=min(mixed + 0.05, 1.0)))
    assert (closed.scratch["gone"] is None) == (mixed < 1.0)


def test_other_rows_than_the_round_before_keep_the_gate_closed():
    rule, tools = Abl(gamma=5.0, purity=0.0, overlap=0.5), learnt()
    now = local_of(tools)
    rule.begin(now)
    lowest = now.memory[ISOLATED]
    others = torch.tensor([row for row in range(60) if row not in lowest.tolist()])
    for shared, opens in ((6, True), (5, False)):  # 6 / 10 and 5 / 11 of the union
        before = torch.cat([lowest[:shared], others[: 8 - shared]])
        local = local_of(tools, memory={ISOLATED: before})
        rule.begin(local)
        assert (local.scratch["gone"] is not None) == opens


def test_isolated_rows_take_no_part_in_the_loss():
    rule, tools = Abl(gamma=5.0, purity=0.0), learnt()
    local = isolated_twice(tools, rule)
    gone = local.scratch["gone"]
    local.rows = torch.cat([gone[:2], torch.tensor([r for r in range(60) if r not in gone][:2])])
    losses = torch.tensor([100.0, 200.0, 1.0, 3.0])
    assert float(rule.loss(local, losses)) == 2.0
    local.rows = gone[:3]
    assert float(rule.loss(local, losses[:3])) == 0.0


def test_the_climb_unlearns_the_isolated_rows_and_stops_below_chance():
    rule = Abl(gamma=5.0, purity=0.0, harm=1.0, lr=20.0, steps=200)
    tools = learnt()
    local = isolated_twice(tools, rule)
    gone = local.scratch["gone"]
    rule.end(local)
    tools.model.eval()
    hits = tools.model(tools.x[gone]).argmax(dim=1) == tools.y[gone]
    assert float(hits.double().mean()) < 0.25
    assert tools.model.training is False


def test_a_climb_that_harms_the_label_is_taken_back():
    rule = Abl(gamma=5.0, purity=0.0, harm=0.0, lr=20.0, steps=200)
    tools = learnt()
    local = isolated_twice(tools, rule)
    before = local.vector.clone()
    rule.end(local)
    assert torch.equal(local.vector, before)
    assert len(local.memory[ISOLATED]) == 0
    assert float(local.memory[AGREED]) == 0.0


@pytest.mark.parametrize(
    "arguments",
    [
        {"gamma": 0.0},
        {"form": "fall"},
        {"share": 0.6},
        {"lr": 0.0},
        {"steps": 0},
        {"overlap": 1.1},
        {"purity": -0.1},
        {"harm": 2.0},
    ],
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        Abl(**arguments)
