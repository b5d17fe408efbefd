from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from fedguard import registry
from fedguard.attacks.badnets import BadNets
from fedguard.attacks.base import NEEDS, Attack, source_to_target
from fedguard.attacks.label_flip import LabelFlip
from fedguard.errors import ConfigurationError
from fedguard.metrics.classification import evaluate


def test_a_misspelt_need_is_an_error_that_names_the_right_one():
    with pytest.raises(ConfigurationError, match=r"needs: 'update'.*did you mean 'updates'"):

        class Misspelt(Attack):
            needs: ClassVar[frozenset[str]] = frozenset({"data", "update"})


def test_a_string_is_no_set_of_needs():
    with pytest.raises(ConfigurationError, match="needs: "):

        class Letters(Attack):
            needs = "updates"


def test_every_need_is_known_and_used_by_one_of_our_attacks():
    used = {need for name in registry.names("attack") for need in _part(name).needs}
    assert used == NEEDS


def _part(name: str) -> type[Attack]:
    part = registry.find("attack", name)
    assert isinstance(part, type)
    return part


def test_attacks_that_need_images_serve_tasks_that_have_some():
    for name in registry.names("attack"):
        part = _part(name)
        if "images" in part.needs:
            assert part.tasks is not None, name
            assert part.tasks <= {"classification", "hashing"}, name
    assert LabelFlip.tasks is None
    assert Attack.tasks is None


def test_success_of_a_flip_is_the_share_of_the_source_taken_for_the_target():
    model = torch.nn.Linear(1, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0], [0.0], [1.0]]))
        model.bias.zero_()
    x = torch.tensor([[-2.0], [-1.0], [3.0], [5.0], [1.0]])
    y = torch.tensor([0, 0, 0, 0, 2])
    found = evaluate(model, x, y, 3)

    def success(source: int, target: int) -> float | None:
        flip = LabelFlip(mode="targeted", source_class=source, target_class=target)
        return source_to_target(flip, found.confusion)

    assert (success(0, 2), success(2, 0), success(1, 0)) == (0.5, 0.0, None)
    assert source_to_target(LabelFlip(), found.confusion) is None
    assert source_to_target(BadNets(target_class=2), found.confusion) is None
    assert source_to_target(Attack(), found.confusion) is None
