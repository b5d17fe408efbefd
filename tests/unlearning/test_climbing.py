from __future__ import annotations

import pytest
import torch

from fedguard.metrics.classification import predictions
from fedguard.models.build import build
from fedguard.models.flat import FlatModel
from fedguard.randomness import generator
from fedguard.unlearning.climbing import AscentSettings, ascend
from fedguard.unlearning.verification import Trainer


@pytest.fixture(scope="module")
def learned():
    rng = generator(0, 0, 0, "task")
    centres = 1.5 * torch.randn(3, 16, generator=rng)
    y = torch.arange(300) % 3
    x = centres[y] + torch.randn(300, 16, generator=rng)
    model = FlatModel(build("mlp", (16,), 3, 0, hidden=(24,)))
    for _ in range(10):
        Trainer(0.1, 16).epoch(model, (x[:200], y[:200]), rng)
    return model, model.vector.clone(), (x[:60], y[:60]), (x[200:], y[200:])


def climb(learned, **settings):
    model, start, forget, held = learned
    found = ascend(
        model,
        start,
        forget,
        held,
        AscentSettings(**{"lr": 0.1, "epochs": 200, **settings}),
        generator(0, 0, 0, "climb"),
    )
    model.load(start + found.delta)
    share = float((predictions(model.module, held[0]).argmax(1) == held[1]).double().mean())
    model.load(start)
    before = float((predictions(model.module, held[0]).argmax(1) == held[1]).double().mean())
    return found, before, share


def test_it_stops_before_non_members_suffer(learned):
    found, before, after = climb(learned, tolerance=0.05, check_every=1)
    assert found.stopped == "held-out accuracy"
    assert after >= before - 0.05
    assert float(found.delta.norm()) > 0


def test_it_goes_on_with_smaller_steps(learned):
    settings = {"tolerance": 0.05, "check_every": 1, "lr": 2.0, "clip": 100.0, "epochs": 5}
    once, before, _ = climb(learned, **settings)
    again, _, after = climb(learned, **settings, retries=6)
    assert once.trained < again.trained
    assert float(once.delta.norm()) < float(again.delta.norm())
    assert after >= before - 0.05


def test_repair_keeps_what_non_members_need(learned):
    model, start, forget, _ = learned
    accuracies = {}
    for repair in (0.0, 1.0):
        found, _, accuracies[repair] = climb(learned, target=0.5, repair=repair, cap=2.0)
        model.load(start + found.delta)
        left = float((predictions(model.module, forget[0]).argmax(1) == forget[1]).double().mean())
        assert left <= 0.5 or found.stopped == "epochs"
    assert accuracies[1.0] > accuracies[0.0]


def test_plain_ascent_looks_at_no_held_out_rows():
    plain = AscentSettings(lr=0.2, target=0.5, repair=1.0, tolerance=0.1, cap=2.0).plain(3.0)
    assert plain == AscentSettings(lr=0.2, target=0.5, radius=3.0)


def test_without_the_rule_it_climbs_down_to_guessing(learned):
    found, before, after = climb(learned, target=1 / 3)
    assert found.stopped == "forgotten"
    assert after < before - 0.05


def test_it_stays_in_the_ball(learned):
    found, _, _ = climb(learned, radius=0.3)
    assert float(found.delta.norm()) <= 0.3 * (1 + 1e-5)


def test_rows_that_are_lost_push_no_further(learned):
    bounded, _, _ = climb(learned, cap=1.0)
    free, _, _ = climb(learned)
    assert float(bounded.delta.norm()) < 0.7 * float(free.delta.norm())


def test_nothing_to_forget_changes_nothing(learned):
    model, start, (x, y), held = learned
    found = ascend(model, start, (x[:0], y[:0]), held, AscentSettings(), generator(0, 0, 0, "c"))
    assert found.trained == 0
    assert not bool(found.delta.any())


def test_settings_travel_as_a_record(learned):
    settings = AscentSettings(lr=0.5, radius=2.0, tolerance=0.1)
    assert AscentSettings.from_config(settings.to_config()) == settings
