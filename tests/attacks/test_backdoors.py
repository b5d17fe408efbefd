"""What every backdoor holds to, and the trigger that defines each."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from fedguard.attacks.a3fl import A3fl
from fedguard.attacks.badnets import BadNets
from fedguard.attacks.blended import Blended
from fedguard.attacks.dba import PARTS, Dba
from fedguard.attacks.edge_case import EdgeCase
from fedguard.attacks.model_replacement import ModelReplacement
from fedguard.attacks.neurotoxin import Neurotoxin
from fedguard.attacks.pgd import Pgd
from fedguard.attacks.sig import Sig
from fedguard.attacks.toolkit.poisoning import Backdoor, drawn_share
from fedguard.attacks.wanet import WaNet
from fedguard.errors import ConfigurationError
from fedguard.randomness import generator
from tests.attacks.worlds import a_round, images, rows

BACKDOORS: list[Callable[..., Backdoor]] = [
    A3fl,
    BadNets,
    Blended,
    Dba,
    EdgeCase,
    ModelReplacement,
    Neurotoxin,
    Pgd,
    Sig,
    WaNet,
]


def _rng(client: int = 1) -> torch.Generator:
    return generator(0, 0, client, "poison")


@pytest.mark.parametrize("make", BACKDOORS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8)])
def test_the_trigger_is_one_fixed_change(make, shape):
    attack = make(target_class=3)
    attack.bind(10, shape)
    x, _ = images(6, shape[1], shape[0])
    before = x.clone()
    stamped = attack.trigger(x)
    assert torch.equal(x, before)
    assert stamped.shape == x.shape
    assert stamped.min() >= 0.0
    assert stamped.max() <= 1.0
    assert (stamped != x).flatten(1).any(dim=1).all()
    assert torch.equal(stamped, make(target_class=3).trigger(x))
    assert torch.equal(stamped[2:3], attack.trigger(x[2:3]))
    assert len(attack.trigger(x[:0])) == 0


@pytest.mark.parametrize("make", BACKDOORS)
def test_poison_changes_a_drawn_share_and_no_originals(make):
    attack = make(target_class=3, poison_fraction=0.3)
    attack.bind(10, (1, 10, 10))
    x, y = images(100, 10)
    before = x.clone(), y.clone()
    first = attack.poison(x, y, _rng())
    again = attack.poison(x, y, _rng())
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], attack.poison(x, y, _rng(2))[0])
    relabelled = first[1] != y
    assert (first[1][relabelled] == 3).all()


@pytest.mark.parametrize("make", [BadNets, Blended, EdgeCase, Pgd, Neurotoxin, A3fl])
def test_poisoned_examples_carry_the_trigger_and_the_target(make):
    attack = make(target_class=3, poison_fraction=0.3)
    attack.bind(10, (1, 12, 12))
    x, y = images(100)
    poisoned, labels = attack.poison(x, y, _rng())
    changed = (poisoned != x).flatten(1).any(dim=1)
    assert int(changed.sum()) == 30
    assert torch.equal(poisoned[changed], attack.trigger(x[changed]))
    assert (labels[changed] == 3).all()
    assert torch.equal(labels[~changed], y[~changed])


@pytest.mark.parametrize("make", BACKDOORS)
def test_tables_and_unknown_classes_are_refused_in_one_line(make):
    with pytest.raises(ConfigurationError, match="only on images") as caught:
        make().bind(10, (30,))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="target_class"):
        make(target_class=10).bind(10, (1, 12, 12))


@pytest.mark.parametrize("make", BACKDOORS)
def test_what_it_needs_is_declared(make):
    assert {"data", "images", "updates"} <= make.needs
    assert make.backdoor
    changes_steps = make.local_step is not Backdoor.local_step
    assert ("training" in make.needs) == changes_steps


@pytest.mark.parametrize(
    ("position", "row", "column"),
    [("top-left", 0, 0), ("top-right", 0, 9), ("bottom-left", 9, 0), ("bottom-right", 9, 9)],
)
def test_badnets_changes_the_patch_and_nothing_else(position, row, column):
    x, _ = images(4)
    attack = BadNets(size=3, position=position, value=1.0)
    changed = attack.trigger(x) != x
    expected = torch.zeros_like(changed)
    expected[..., row : row + 3, column : column + 3] = True
    assert torch.equal(changed, expected)
    assert torch.equal(attack.trigger(attack.trigger(x)), attack.trigger(x))


def test_badnets_refuses_a_patch_larger_than_the_image():
    with pytest.raises(ConfigurationError, match="at most 8 pixels"):
        BadNets(size=9).bind(10, (1, 8, 8))


def test_scale_multiplies_the_coalitions_updates():
    coalition, knowledge = a_round(rows(6), 2)
    assert torch.equal(BadNets().craft(coalition, knowledge), coalition.deltas)
    scaled = BadNets(scale=5.0).craft(coalition, knowledge)
    assert torch.allclose(scaled, 5.0 * coalition.deltas)


def test_blended_mixes_one_pattern_into_all_images():
    x, _ = images(5)
    pattern = (Blended(alpha=0.25).trigger(x) - 0.75 * x) / 0.25
    assert torch.allclose(pattern, pattern[:1].expand_as(pattern), atol=1e-5)
    other = Blended(alpha=0.25, pattern_seed=1).trigger(x)
    assert not torch.allclose(other, Blended(alpha=0.25).trigger(x))


def test_sig_adds_its_sinusoid_to_the_target_class_and_keeps_labels():
    x, y = images(100, 16)
    attack = Sig(target_class=4, amplitude=0.05, frequency=3, poison_fraction=1.0)
    attack.bind(10, (1, 16, 16))
    poisoned, labels = attack.poison(x, y, _rng())
    assert torch.equal(labels, y)
    assert torch.equal(poisoned[y != 4], x[y != 4])
    wave = 0.05 * torch.sin(2 * math.pi * 3 * torch.arange(16) / 16)
    expected = (x[y == 4] + wave).clamp(0.0, 1.0)
    assert torch.allclose(poisoned[y == 4], expected, atol=1e-6)


def test_sig_without_the_target_class_is_honest_and_an_invisible_wave_is_refused():
    x, _ = images(20, 16)
    y = torch.full((20,), 5)
    poisoned, labels = Sig(target_class=4).poison(x, y, _rng())
    assert torch.equal(poisoned, x)
    assert torch.equal(labels, y)
    with pytest.raises(ConfigurationError, match="multiple of half the images' width of 12"):
        Sig(frequency=6).bind(10, (1, 12, 12))


def test_wanet_has_one_smooth_warp_for_life():
    attack = WaNet(strength=2.0)
    grid = attack.grid(28, 28)
    assert torch.equal(grid, WaNet(strength=2.0).grid(28, 28))
    assert not torch.equal(grid, WaNet(strength=2.0, pattern_seed=1).grid(28, 28))
    assert grid.abs().max() <= 1.0
    step = (grid[1:] - grid[:-1]).abs().max()
    assert step < 0.5


def test_wanet_leaves_a_flat_image_flat_and_vanishes_with_its_strength():
    flat = torch.full((2, 1, 28, 28), 0.5)
    assert torch.allclose(WaNet(strength=2.0).trigger(flat), flat, atol=1e-5)
    x, _ = images(3, 28)
    assert torch.allclose(WaNet(strength=1e-6).trigger(x), x, atol=1e-3)


def test_wanet_shows_noisy_warps_with_their_right_labels():
    attack = WaNet(target_class=3, poison_fraction=0.1, cross_ratio=2.0)
    attack.bind(10, (1, 12, 12))
    x, y = images(100)
    poisoned, labels = attack.poison(x, y, _rng())
    changed = (poisoned != x).flatten(1).any(dim=1)
    assert int(changed.sum()) == 30
    triggered = (poisoned == attack.trigger(x)).flatten(1).all(dim=1)
    assert int(triggered.sum()) == 10
    assert (labels[triggered] == 3).all()
    assert torch.equal(labels[~triggered], y[~triggered])


@pytest.mark.parametrize("side", [8, 12, 28, 32])
def test_dba_parts_are_disjoint_and_make_up_the_trigger(side):
    attack = Dba()
    attack.bind(10, (1, side, side))
    x, _ = images(3, side)
    parts = torch.stack([attack.stamp(x, [part]) != x for part in range(PARTS)])
    assert (parts.sum(dim=0) <= 1).all()
    assert parts.flatten(1).any(dim=1).all()
    assert torch.equal(parts.any(dim=0), attack.trigger(x) != x)


def test_dba_matches_the_papers_layout_on_cifar():
    bars = Dba().bars(32, 32)
    assert [
        (rows.start, columns.start, columns.stop - columns.start) for rows, columns in bars
    ] == [
        (0, 0, 6),
        (0, 9, 6),
        (4, 0, 6),
        (4, 9, 6),
    ]


def test_dba_clients_stamp_one_part_each_and_all_parts_occur():
    attack = Dba(target_class=3, poison_fraction=1.0)
    attack.bind(10, (1, 12, 12))
    x, y = images(5)
    seen = set()
    for client in range(30):
        poisoned, labels = attack.poison(x, y, _rng(client))
        matches = [torch.equal(poisoned, attack.stamp(x, [part])) for part in range(PARTS)]
        assert sum(matches) == 1
        assert (labels == 3).all()
        seen.add(matches.index(True))
    assert seen == set(range(PARTS))


def test_dba_refuses_bars_that_do_not_fit():
    with pytest.raises(ConfigurationError, match="width of 12"):
        Dba(length=7).bind(10, (1, 12, 12))
    with pytest.raises(ConfigurationError, match="height of 12"):
        Dba(shift=12).bind(10, (1, 12, 12))


def test_edge_cases_are_far_from_the_data_and_an_involution():
    x, _ = images(4)
    assert torch.allclose(EdgeCase().trigger(EdgeCase().trigger(x)), x, atol=1e-6)


def test_drawn_share():
    candidates = torch.tensor([3, 5, 8, 9])
    assert drawn_share(candidates, 0.0, _rng()).numel() == 0
    assert drawn_share(candidates, 0.01, _rng()).numel() == 1
    assert drawn_share(candidates, 0.5, _rng()).numel() == 2
    assert torch.equal(drawn_share(candidates, 1.0, _rng()), candidates)
    assert drawn_share(candidates[:0], 1.0, _rng()).numel() == 0
