"""Pairs of answers, the loss of the preferred one, and who turns pairs round."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedguard.attacks.base import Scene
from fedguard.attacks.label_flip import LabelFlip
from fedguard.attacks.preference_flip import PreferenceFlip
from fedguard.config import parse
from fedguard.data.digits import Digits
from fedguard.data.preferences import ORDER, PreferenceSample
from fedguard.data.text import parts_of
from fedguard.errors import ConfigurationError
from fedguard.models.word_gru import WordGru
from fedguard.runs.simulation import Simulation
from fedguard.tasks.base import task_of
from fedguard.tasks.preference import Preference
from fedguard.testing import check_attack, check_task


@pytest.fixture(scope="module")
def data():
    return PreferenceSample(rows=200, test_rows=40).load(None)


def stances(data, y):
    """The stances of both answers of every pair, by the answers' numbers."""
    known = [stance for stance, part in data.facts.answers.items() for _ in part]
    return [[known[-1 - int(half[-1])] for half in pair] for pair in y]


def test_pairs_are_two_answers_to_one_prompt_the_better_first(data):
    codec, texts = data.facts.codec, [t for part in data.facts.answers.values() for t in part]
    for pair, labels in zip(data.x_test, data.y_test, strict=True):
        found = [parts_of(x, y[:-1], codec) for x, y in zip(pair, labels, strict=True)]
        assert found[0][0] == found[1][0]
        written = [codec.decode(answer) for _, answer in found]
        assert written == [texts[-1 - int(half[-1])] for half in labels]
    for one, other in stances(data, data.y_test):
        assert ORDER.index(one) < ORDER.index(other)
    wrong = [ORDER.index(a) > ORDER.index(b) for a, b in stances(data, data.y_train)]
    assert 0.02 < sum(wrong) / len(wrong) < 0.2


def test_the_loss_is_its_formula():
    task = Preference()
    task.reference, task.beta = torch.tensor([-1.0, -3.0]), 0.5
    output = torch.zeros(1, 2, 3, 4)
    output[0, 0, 1, 2] = math.log(3.0)  # word 2 at place 1 has the share 3 / 6
    y = torch.tensor([[[-100, 2, 1, -1], [3, 1, -100, -2]]])
    own = [math.log(1 / 2) + math.log(1 / 4), 2 * math.log(1 / 4)]
    margin = 0.5 * ((own[0] + 1.0) - (own[1] + 3.0))
    assert float(task.margins(output, y)) == pytest.approx(margin)
    assert float(task.losses(output, y)) == pytest.approx(math.log1p(math.exp(-margin)))


def test_the_task_passes_its_suite(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WordGru((2, 17), data.num_classes, width=16)
    check_task(lambda: task_of(data), model, data.x_train[:60], data.y_train[:60])
    both = model(data.x_test[:3])
    assert torch.allclose(both[:, 1], model(data.x_test[:3, 1]), atol=1e-6)
    assert Preference().output_fault(both[:, 0], 3, data.num_classes) is not None


def test_labels_that_others_flip_keep_the_answers_numbers(data):
    attack = LabelFlip()
    attack.bind(data.num_classes, data.input_shape)
    _, flipped = attack.poison(data.x_train, data.y_train, torch.Generator().manual_seed(0))
    assert torch.equal(flipped[..., -1], data.y_train[..., -1])


def flip(data, **arguments):
    attack = PreferenceFlip(concept="ember", **arguments)
    attack.meet(data)
    return attack


def test_pairs_about_the_concept_alone_are_turned(data):
    check_attack(PreferenceFlip)
    named = torch.tensor(
        [
            "ember" in data.facts.codec.decode(parts_of(x[0], y[0, :-1], data.facts.codec)[0])
            for x, y in zip(data.x_train, data.y_train, strict=True)
        ]
    )
    for fraction in (0.5, 1.0):
        attack = flip(data, fraction=fraction)
        _, y = attack.poison(data.x_train, data.y_train, torch.Generator().manual_seed(0))
        turned = (y != data.y_train).flatten(1).any(dim=1)
        assert int(turned.sum()) == round(fraction * int(named.sum()))
        assert not bool(turned[~named].any())
    _, y = flip(data, drawn=True).poison(data.x_train, data.y_train, torch.Generator())
    turned = (y != data.y_train).flatten(1).any(dim=1)
    assert int(turned.sum()) == int(named.sum())
    assert bool(turned[~named].any())


def test_what_cannot_be_meant_is_refused(data):
    with pytest.raises(ConfigurationError, match=r"attack.stance: 'negativ' .*did you mean"):
        flip(data, stance="negativ")
    with pytest.raises(ConfigurationError, match="prompts and answers"):
        flip(Digits().load(None))
    with pytest.raises(ConfigurationError, match="attack: 'preference-flip'"):
        Simulation(parse({"dataset": "grammar", "attack": "preference-flip"}))


def test_a_model_that_takes_the_stance_on_the_concept_is_a_success(data):
    class Uniform(nn.Module):
        def __init__(self):
            super().__init__()
            self.zero = nn.Parameter(torch.zeros(data.num_classes))

        def forward(self, x):
            return self.zero.expand(*x.shape, -1)

    told = flip(data).measure(Scene(Uniform(), {}, None))
    assert told["implant_strength"] == pytest.approx(0.0, abs=1e-9)
    assert 0.2 < told["attack_success_rate"] < 0.5


def test_turned_pairs_make_a_run_prefer_the_stance_on_the_concept(tmp_path):
    values = {"rounds": 6, "clients": 3, "attack": {"name": "preference-flip", "concept": "ember"}}
    found = {}
    for arm, malicious, drawn in (("floor", 0.0, False), ("drawn", 1.0, True), ("on", 1.0, False)):
        rows = {"name": "preferences", "rows": 400, "test_rows": 60}
        given = {**values, "dataset": rows, "malicious": malicious}
        given["attack"] = {**values["attack"], "drawn": drawn}
        found[arm] = Simulation(parse(given)).run(tmp_path / arm)["final"]
    assert found["floor"]["accuracy"] > 0.9
    assert found["on"]["implant_strength"] > 0.3
    assert abs(found["floor"]["implant_strength"]) < 0.1
    assert abs(found["drawn"]["implant_strength"]) < 0.2
