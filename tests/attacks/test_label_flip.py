from __future__ import annotations

import pytest
import torch

from fedguard.attacks.label_flip import LabelFlip
from fedguard.errors import ConfigurationError
from fedguard.randomness import generator
from tests.attacks.worlds import images


def _flip(attack, y, classes=10):
    attack.bind(classes, (1, 12, 12))
    x, _ = images(len(y))
    new_x, new_y = attack.poison(x, y, generator(0, 0, 3, "poison"))
    assert torch.equal(new_x, x)
    return new_y


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_static_is_an_involution(classes):
    y = torch.arange(60) % classes
    once = _flip(LabelFlip(), y, classes)
    assert torch.equal(once, classes - 1 - y)
    assert torch.equal(_flip(LabelFlip(), once, classes), y)


def test_cyclic_comes_back_after_as_many_flips_as_classes():
    y = torch.arange(60) % 10
    now = y
    for _ in range(10):
        before, now = now, _flip(LabelFlip(mode="cyclic"), now)
        assert not (before == now).any()
    assert torch.equal(now, y)


def test_targeted_moves_one_class_only():
    y = torch.arange(60) % 10
    flipped = _flip(LabelFlip(mode="targeted", source_class=7, target_class=2), y)
    assert (flipped[y == 7] == 2).all()
    assert torch.equal(flipped[y != 7], y[y != 7])


def test_random_never_keeps_a_label_and_uses_all_others():
    y = torch.full((600,), 4)
    flipped = _flip(LabelFlip(mode="random"), y)
    assert sorted(flipped.unique().tolist()) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("mode", ["static", "cyclic", "random"])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_the_share_of_flipped_examples(mode, fraction):
    y = torch.arange(80) % 10
    flipped = _flip(LabelFlip(mode=mode, poison_fraction=fraction), y)
    assert int((flipped != y).sum()) == round(80 * fraction)


def test_targeted_share_is_of_the_source_class():
    y = torch.arange(80) % 10
    attack = LabelFlip(mode="targeted", source_class=7, target_class=2, poison_fraction=0.5)
    assert int((_flip(attack, y) != y).sum()) == 4


def test_streams_decide_which_examples_are_flipped():
    attack = LabelFlip(poison_fraction=0.3)
    attack.bind(10, (1, 12, 12))
    x, y = images(90)
    found = [attack.poison(x, y, generator(0, 0, client, "poison"))[1] for client in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_labels_are_not_changed_in_place_and_no_examples_are_no_trouble():
    y = torch.arange(10)
    _flip(LabelFlip(), y)
    assert torch.equal(y, torch.arange(10))
    assert len(_flip(LabelFlip(mode="random"), torch.zeros(0, dtype=torch.int64))) == 0


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigurationError, match="target_class"):
        LabelFlip(mode="targeted", source_class=1, target_class=1)
    with pytest.raises(ConfigurationError, match="a class from 0 to 2"):
        LabelFlip(mode="targeted", source_class=1, target_class=5).bind(3, (8,))
    with pytest.raises(RuntimeError, match="bind"):
        LabelFlip().poison(*images(3), generator(0, 0, 0, "poison"))


def test_the_coalition_can_boost_its_updates():
    from fedguard.attacks.base import Knowledge
    from fedguard.testing import honest_updates

    updates = honest_updates(3)
    stream = torch.Generator()
    knowledge = Knowledge("partial", updates, 10, 3, 1, stream)
    boosted = LabelFlip(scale=4.0).craft(updates, knowledge)
    size = updates.layout.num_trainable
    torch.testing.assert_close(boosted[:, :size], 4.0 * updates.trainable)
    assert torch.equal(LabelFlip().craft(updates, knowledge), updates.deltas)
    with pytest.raises(ConfigurationError, match="scale"):
        LabelFlip(scale=0.0)


def _sequences(mode, **more):
    attack = LabelFlip(mode=mode, **more)
    attack.bind(5, (4,))
    y = torch.tensor([[0, 1, 2, 3], [4, 0, -100, -100], [1, 1, 1, 1]])
    x = torch.zeros(3, 4, dtype=torch.int64)
    return y, attack.poison(x, y, generator(0, 0, 3, "poison"))[1]


def test_labels_of_a_sequence_are_flipped_one_by_one_and_padding_stays():
    y, flipped = _sequences("static")
    assert flipped.tolist() == [[4, 3, 2, 1], [0, 4, -100, -100], [3, 3, 3, 3]]
    y, flipped = _sequences("cyclic")
    assert flipped.tolist() == [[1, 2, 3, 4], [0, 1, -100, -100], [2, 2, 2, 2]]
    y, flipped = _sequences("random")
    learnt = y >= 0
    assert bool((flipped[learnt] != y[learnt]).all())
    assert bool(((flipped[learnt] >= 0) & (flipped[learnt] < 5)).all())
    assert torch.equal(flipped[~learnt], y[~learnt])


def test_a_targeted_flip_of_sequences_moves_the_source_class_alone():
    _, flipped = _sequences("targeted", source_class=0, target_class=3)
    assert flipped.tolist() == [[3, 1, 2, 3], [4, 3, -100, -100], [1, 1, 1, 1]]


def test_a_share_of_sequences_is_a_share_of_those_that_hold_the_source_class():
    y, flipped = _sequences("targeted", source_class=0, target_class=3, poison_fraction=0.5)
    assert int((flipped != y).any(dim=1).sum()) == 1
    assert torch.equal(flipped[2], y[2])
