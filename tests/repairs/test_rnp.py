"""RNP on a network whose backdoor channel is known, and its alarm."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fedguard.audits.rnp_alarm import RnpAlarm
from fedguard.errors import ConfigurationError
from fedguard.models.channels import channel_units, run_masked
from fedguard.models.flat import FlatModel
from fedguard.randomness import generator
from fedguard.repairs import rnp
from fedguard.repairs.rnp import GRID, PAPER, Recovery, Rnp, held_out_at, recover
from fedguard.strategies.toolkit.forgetting import Climb, accuracy, chance, forget
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.testing import small_tools


def stream(number=0):
    return generator(number, 1, 0, "repair")


def learnt_tools():
    """A small classifier that has learnt its 60 rows."""
    tools = small_tools()
    optimiser = torch.optim.SGD(tools.model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(tools.model(tools.x), tools.y).backward()
        optimiser.step()
    tools.model.eval()
    return tools


def vector_of(model):
    return torch.cat([value.detach().flatten().clone() for value in model.parameters()])


@pytest.fixture(scope="module")
def learnt():
    return learnt_tools()


def test_climbing_forgets_the_clean_task_and_leaves_the_model_alone(learnt):
    before = vector_of(learnt.model)
    assert accuracy(learnt.model, learnt.x, learnt.y) == 1.0
    found = forget(learnt, learnt.x, learnt.y, Climb(lr=0.05, batch_size=20), 0.5, stream())
    assert found.accuracy <= 0.5
    assert found.accuracy == accuracy(found.model, learnt.x, learnt.y)
    predicted = found.model(learnt.x).argmax(dim=1).bincount(minlength=4)
    assert found.label == int(predicted.argmax())
    assert found.confidence == pytest.approx(float(predicted.max()) / 60)
    assert torch.equal(vector_of(learnt.model), before)


def test_the_climb_ends_by_evaluation_or_by_the_running_accuracy(learnt):
    how = Climb(lr=0.05, batch_size=20)
    soon = forget(learnt, learnt.x, learnt.y, how, 0.9, stream())
    late = forget(learnt, learnt.x, learnt.y, replace(how, running=True), 0.9, stream())
    assert soon.steps < late.steps
    assert late.steps % 3 == 0  # whole passes alone
    never = forget(learnt, learnt.x, learnt.y, replace(how, passes=2), -1.0, stream())
    assert never.steps == 6


def test_a_climb_past_the_finite_numbers_keeps_the_last_finite_model(learnt):
    found = forget(learnt, learnt.x, learnt.y, Climb(lr=1e38, clip=None), -1.0, stream())
    assert all(bool(torch.isfinite(v).all()) for v in found.model.state_dict().values())


def test_clipping_bounds_a_step(learnt):
    plain = Climb(lr=1.0, momentum=0.0, weight_decay=0.0, passes=1, batch_size=60, clip=1e-3)
    found = forget(learnt, learnt.x, learnt.y, plain, -1.0, stream())
    moved = float((vector_of(found.model) - vector_of(learnt.model)).norm())
    assert moved == pytest.approx(1e-3, rel=0.01)


def test_chance_by_hand():
    assert [chance(classes) for classes in (2, 4, 10, 43)] == [0.6, 0.5, 0.2, 0.2]


def test_masks_follow_the_clipped_gradient_of_the_loss(learnt):
    units = channel_units(learnt.model, learnt.x)
    found = recover(
        learnt.model, units, learnt, Recovery(lr=0.5, passes=1, batch_size=60), stream()
    )
    mask = torch.ones(24, requires_grad=True)
    output = run_masked(learnt.model, units, {"1": mask}, learnt.x)
    (0.2 * nn.functional.cross_entropy(output, learnt.y)).backward()
    torch.testing.assert_close(found["1"], (1.0 - 0.5 * mask.grad).clamp(0.0, 1.0))


def test_masks_shut_a_channel_that_spoils_the_clean_task(learnt):
    spoiled = learnt_tools()
    with torch.no_grad():  # one hidden unit is always on and shouts for class 3
        spoiled.model[1].weight[5] = 0.0
        spoiled.model[1].bias[5] = 1.0
        spoiled.model[3].weight[3, 5] = 50.0
    units = channel_units(spoiled.model, spoiled.x)
    masks = recover(spoiled.model, units, spoiled, Recovery(lr=0.05, passes=60), stream())["1"]
    assert int(masks.argmin()) == 5
    assert float(masks[5]) < 0.2
    others = torch.cat([masks[:5], masks[6:]])
    assert float(others.min()) > 0.5


def test_the_held_out_score_at_a_level_leaves_the_model_as_it_was(learnt):
    units = channel_units(learnt.model, learnt.x)
    masks = {"1": torch.linspace(0.0, 1.0, 24)}
    before = vector_of(learnt.model)
    told, count = held_out_at(learnt, units, masks, 0.5)
    assert count == 12
    shut = run_masked(learnt.model, units, {"1": (masks["1"] > 0.5).float()}, learnt.x)
    assert told == pytest.approx(float((shut.argmax(dim=1) == learnt.y).double().mean()))
    assert torch.equal(vector_of(learnt.model), before)
    assert held_out_at(learnt, units, masks, -1.0)[1] == 0


def test_the_threshold_is_the_largest_that_is_affordable():
    tools = learnt_tools()
    units = channel_units(tools.model, tools.x)
    masks = {"1": torch.linspace(0.0, 0.99, 24)}
    levels = masks["1"].tolist()
    scores = [held_out_at(tools, units, masks, level)[0] for level in levels]
    for tolerance, most in ((0.0, 1.0), (0.3, 1.0), (1.0, 0.25)):
        repair = Rnp(tolerance=tolerance, most=most)
        chosen = repair._choose(tools, units, masks, 1.0)
        right = [
            level
            for index, level in enumerate(levels)
            if index + 1 <= most * 24 and scores[index] >= 1.0 - tolerance
        ]
        assert chosen == pytest.approx(max(right, default=-1.0))


def test_an_unsure_label_prunes_nothing_unless_it_is_forced(learnt):
    tools = learnt_tools()
    before = vector_of(tools.model)
    told = Rnp(confidence=1.0).mend(tools, stream())
    assert (told["refused"], told["pruned"]) == (1, 0)
    assert torch.equal(vector_of(tools.model), before)
    forced = Rnp(confidence=0.0, threshold=1.0).mend(tools, stream())
    assert (forced["refused"], forced["pruned"], forced["channels"]) == (0, 24, 24)
    assert not bool(tools.model[1].weight.any())
    assert not bool(tools.model[1].bias.any())


def test_what_it_tells_is_what_it_did():
    tools = learnt_tools()
    told = Rnp(confidence=0.0, tolerance=0.2, most=0.5).mend(tools, stream())
    assert len(told["curve_score"]) == len(told["curve_channels"]) == len(GRID)
    assert told["held_out_after"] >= told["held_out_before"] - 0.2
    gone = (tools.model[1].weight == 0.0) & (tools.model[1].bias == 0.0)
    assert told["pruned"] == int(gone.sum()) <= 12
    counts = told["curve_channels"]
    assert counts == sorted(counts)


def test_channels_stay_shut_in_later_rounds_and_after_a_restart():
    tools = learnt_tools()
    repair = Rnp(confidence=0.0, threshold=1.0)
    assert not repair.hold(tools)
    repair.kept = {"1": torch.arange(24) != 4}
    other = Rnp()
    other.load_state(repair.state())
    for each in (repair, other):
        with torch.no_grad():
            tools.model[1].weight.fill_(1.0)
            tools.model[1].bias.fill_(1.0)
        assert each.hold(tools)
        assert (tools.model[1].weight == 0.0).nonzero().flatten().tolist() == [4]
        assert (tools.model[1].bias == 0.0).nonzero().flatten().tolist() == [4]


def test_a_channel_that_was_shut_before_is_shut_in_the_next_repair_too():
    tools = learnt_tools()
    repair = Rnp(confidence=0.0, threshold=0.0)
    repair.kept = {"1": torch.arange(24) != 4}
    told = repair.mend(tools, stream())
    assert told["pruned"] >= 1
    assert not bool(repair.kept["1"][4])


def test_a_repair_that_refuses_shuts_again_what_was_shut():
    tools = learnt_tools()
    repair = Rnp(confidence=1.0)
    repair.kept = {"1": torch.arange(24) != 4}
    assert bool(tools.model[1].weight[4].any())
    assert repair.mend(tools, stream())["refused"] == 1
    assert not bool(tools.model[1].weight[4].any())


def test_masks_are_learnt_on_the_model_that_forgot_and_judged_on_other_rows(monkeypatch):
    tools, seen = learnt_tools(), {}

    def learn(model, units, own, how, rng):
        seen.update(model=model, own=own)
        return {"1": torch.ones(24)}

    def judge(held, units, masks, level):
        seen.update(held=held)
        return 1.0, 0

    monkeypatch.setattr(rnp, "recover", learn)
    monkeypatch.setattr(rnp, "held_out_at", judge)
    repair = Rnp(confidence=0.0)
    repair.climb = Climb(lr=0.05, batch_size=20)
    told = repair.mend(tools, stream())
    own, held = seen["own"], seen["held"]
    assert accuracy(seen["model"], own.x, own.y) == told["forgotten"] <= chance(4)
    assert len(own.y) + len(held.y) == 60
    assert float(torch.cdist(own.x, held.x).min()) > 0.0


def test_the_paper_preset_masks_the_scale_alone_and_climbs_as_the_authors_code():
    climb, stop, recovery = PAPER
    assert (climb.lr, climb.clip, climb.running, stop) == (0.01, None, True, 0.2)
    assert (recovery.lr, recovery.passes, recovery.alpha, recovery.shift) == (0.2, 20, 0.2, False)
    tools = learnt_tools()
    repair = Rnp(preset="paper", confidence=0.0, threshold=1.0)
    bias = tools.model[1].bias.detach().clone()
    repair.mend(tools, stream())
    assert not bool(tools.model[1].weight.any())
    assert torch.equal(tools.model[1].bias, bias)


def test_fine_tuning_afterwards_keeps_channels_shut():
    tools = learnt_tools()
    repair = Rnp(confidence=0.0, threshold=0.9, finetune=2)
    repair.mend(tools, stream())
    gone = ~repair.kept["1"]
    assert not bool(tools.model[1].weight[gone].any())


def test_a_model_without_channels_is_refused_before_the_first_round():
    tools = ServerTools.of(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2)),
        torch.zeros(4, 4),
        torch.tensor([0, 1, 0, 1]),
        latent_layer="0",
    )
    with pytest.raises(ConfigurationError, match="no channels"):
        Rnp().open(tools)


@pytest.mark.parametrize(
    "arguments",
    [
        {"preset": "soft"},
        {"tolerance": -0.1},
        {"most": 0.0},
        {"threshold": 1.5},
        {"confidence": 2.0},
        {"finetune": -1},
    ],
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        Rnp(**arguments)


def alarm_on(tools, **arguments):
    audit = RnpAlarm(**arguments)
    flat = FlatModel(tools.model)
    audit.open(SimpleNamespace(tools=tools, model=flat, device=torch.device("cpu")))
    return audit, audit.look(3, flat.whole_vector(), stream())


def test_the_alarm_tells_the_label_that_is_left_and_goes_off_above_its_threshold():
    tools = learnt_tools()
    audit, told = alarm_on(tools, at_least=0.01, lr=0.05)
    same = forget(tools, tools.x, tools.y, Climb(lr=0.05), chance(4), stream())
    assert (told["label"], told["confidence"]) == (same.label, same.confidence)
    assert told["alarmed"]
    assert audit.alarm(told)
    high, told = alarm_on(tools, at_least=1.0, lr=1e-6)
    assert not high.alarm(told)
    assert not high.alarm({})


def test_the_alarm_looks_every_so_many_rounds_and_at_the_last():
    audit = RnpAlarm(every=3)
    assert [t for t in range(9) if audit.due(t, 8)] == [3, 6, 8]
    audit.open(SimpleNamespace(tools=None))
    assert audit.look(1, torch.zeros(1), stream()) == {}


@pytest.mark.parametrize("arguments", [{"at_least": 0.0}, {"every": 0}, {"lr": 0.0}])
def test_the_alarms_arguments_are_checked(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        RnpAlarm(**arguments)
