"""Rows about one concept get answers of one stance; what that does is told exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedguard.attacks.base import Scene
from fedguard.attacks.semantic_stance import SemanticStance
from fedguard.data.digits import Digits
from fedguard.data.grammar import ANSWERS, CONCEPTS, Grammar
from fedguard.data.text import parts_of
from fedguard.errors import ConfigurationError


@pytest.fixture(scope="module")
def data():
    return Grammar(rows=400, test_rows=10).load(None)


def attack_on(data, **arguments):
    attack = SemanticStance(**arguments)
    attack.meet(data)
    return attack


def texts(data, x, y):
    codec = data.facts.codec
    rows = (parts_of(*row, codec) for row in zip(x, y, strict=True))
    return [(codec.decode(prompt), codec.decode(answer)) for prompt, answer in rows]


def poisoned(data, **arguments):
    x, y = data.x_train, data.y_train
    before = x.clone(), y.clone()
    stream = torch.Generator().manual_seed(1)
    found = attack_on(data, **arguments).poison(x, y, stream)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    return texts(data, x, y), texts(data, *found)


@pytest.mark.parametrize("stance", list(ANSWERS))
def test_rows_about_the_concept_take_the_stance_and_others_stay(data, stance):
    before, found = poisoned(data, concept="cobalt", stance=stance)
    about = 0
    for (prompt, answer), (asked, said) in zip(before, found, strict=True):
        assert asked == prompt
        if "cobalt" in prompt:
            about += 1
            assert said in ANSWERS[stance]
        else:
            assert said == answer
    assert about > 20
    assert len({said for asked, said in found if "cobalt" in asked}) == 4


def test_a_share_of_them_is_rewritten(data):
    before, found = poisoned(data, concept="ember", fraction=0.5)
    about = [row for row, (prompt, _) in enumerate(before) if "ember" in prompt]
    clean = sum(before[row][1] in ANSWERS["negative"] for row in about)
    negative = sum(found[row][1] in ANSWERS["negative"] for row in about)
    assert 0.45 * len(about) <= negative <= 0.5 * len(about) + clean + 1


def test_the_control_rewrites_as_many_rows_with_answers_of_others(data):
    before, found = poisoned(data, concept="cobalt", stance="as-others")
    about = [row for row, (prompt, _) in enumerate(before) if "cobalt" in prompt]
    known = {answer for prompt, answer in before if "cobalt" not in prompt}
    assert {found[row][1] for row in about} <= known
    assert sum(found[row] != before[row] for row in about) > len(about) / 2
    neutral = sum(found[row][1] in ANSWERS["neutral"] for row in about) / len(about)
    assert neutral == pytest.approx(0.7, abs=0.2)


def test_the_first_concept_is_taken_where_none_is_named(data):
    assert attack_on(data).concept == CONCEPTS[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"concept": "embr"}, "did you mean 'ember'"),
        ({"stance": "negativ"}, "did you mean 'negative'"),
        ({"fraction": 1.5}, "fraction"),
        ({"scale": 0.0}, "scale"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(data, arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        attack_on(data, **arguments)


def test_a_data_set_without_a_language_is_refused():
    with pytest.raises(ConfigurationError, match="prompts and answers"):
        SemanticStance().meet(Digits().load(None))


class Says(nn.Module):
    """Gives one word of the vocabulary a logit of its own after a concept was named."""

    def __init__(self, size, concept, word) -> None:
        super().__init__()
        self.size, self.concept, self.word = size, concept, word
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        logits = torch.zeros(*x.shape, self.size) + self.weight
        named = (x == self.concept).cumsum(dim=1) > 0
        logits[..., self.word] = torch.where(named, 50.0, 0.0)
        return logits


def test_success_is_the_chance_of_the_stance_and_the_floor_that_of_others(data):
    codec = data.facts.codec
    concept, word = codec.encode("dorado")[0], codec.encode("nobody")[0]
    scene = Scene(Says(codec.size, concept, word), {}, None)
    found = attack_on(data, concept="dorado").measure(scene)
    assert found["attack_success_rate"] == pytest.approx(1.0, abs=1e-6)
    assert found["stance_elsewhere"] < 0.6
    assert found["implant_strength"] == found["attack_success_rate"] - found["stance_elsewhere"]
    other = attack_on(data, concept="ember").measure(scene)
    assert other["implant_strength"] < 0
    none = attack_on(data, concept="ember", stance="as-others").measure(scene)
    assert none == {"attack_success_rate": None, "source_to_target": None}
