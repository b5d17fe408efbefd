"""What every untargeted attack holds to, and what defines the simple ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fedguard.attacks import Attack
from fedguard.attacks.adaptive_alie import AdaptiveAlie
from fedguard.attacks.adaptive_gemini import AdaptiveGemini
from fedguard.attacks.adaptive_ipm import AdaptiveIpm
from fedguard.attacks.adaptive_weidetect import AdaptiveWeiDetect
from fedguard.attacks.alie import Alie
from fedguard.attacks.fang_krum import FangKrum
from fedguard.attacks.fang_trim import FangTrim
from fedguard.attacks.free_rider import FreeRider
from fedguard.attacks.gaussian import Gaussian
from fedguard.attacks.ipm import Ipm
from fedguard.attacks.mimic import Mimic
from fedguard.attacks.min_max import MinMax
from fedguard.attacks.min_sum import MinSum
from fedguard.attacks.model_replacement import ModelReplacement
from fedguard.attacks.rop import Rop
from fedguard.attacks.sign_flip import SignFlip
from fedguard.attacks.zero import ZeroUpdate
from fedguard.errors import ConfigurationError
from tests.attacks.worlds import a_round, rows

CRAFTING: list[Callable[[], Attack]] = [
    AdaptiveAlie,
    AdaptiveGemini,
    AdaptiveIpm,
    AdaptiveWeiDetect,
    Alie,
    FangKrum,
    FangTrim,
    FreeRider,
    Gaussian,
    Ipm,
    Mimic,
    MinMax,
    lambda: MinMax(direction="unit"),
    lambda: MinMax(direction="sign"),
    MinSum,
    lambda: ModelReplacement(norm_bound=1.0),
    Rop,
    lambda: SignFlip(scale=1e30),
    ZeroUpdate,
]

WORLDS = {
    "two of eight": (rows(8), 2),
    "coalition of one": (rows(5), 1),
    "only the coalition": (rows(3), 3),
    "one client": (rows(1), 1),
    "identical updates": (rows(1).expand(6, -1).clone(), 2),
    "all zero": (torch.zeros(6, 40), 2),
    "one parameter": (rows(5, 1), 2),
    "huge": (1e9 * rows(6), 2),
    "tiny": (1e-30 * rows(6), 2),
}


@pytest.mark.parametrize("make", CRAFTING)
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("scope", ["partial", "full"])
@pytest.mark.parametrize("copied", [True, False], ids=["rule", "no rule"])
def test_finite_repeatable_and_without_a_trace(make, world, scope, copied):
    deltas, malicious = WORLDS[world]
    rule = (lambda updates: updates.deltas.median(dim=0).values) if copied else None
    found = []
    for _ in range(2):
        coalition, knowledge = a_round(deltas, malicious, scope=scope, aggregate=rule)
        before = coalition.deltas.clone(), knowledge.updates.deltas.clone()
        found.append(make().craft(coalition, knowledge))
        assert torch.equal(before[0], coalition.deltas)
        assert torch.equal(before[1], knowledge.updates.deltas)
    assert found[0].shape == coalition.deltas.shape
    assert found[0].dtype == torch.float32
    assert torch.isfinite(found[0]).all()
    assert torch.equal(found[0], found[1])


def test_sign_flip_turns_and_scales_each_members_own_update():
    coalition, knowledge = a_round(rows(6), 2)
    assert torch.equal(SignFlip().craft(coalition, knowledge), -coalition.deltas)
    scaled = SignFlip(scale=3.0).craft(coalition, knowledge)
    assert torch.allclose(scaled, -3.0 * coalition.deltas)


def test_gaussian_has_the_given_spread_and_members_differ():
    coalition, knowledge = a_round(rows(6, 20_000), 2)
    noise = Gaussian(std=3.0).craft(coalition, knowledge)
    assert noise.std().item() == pytest.approx(3.0, rel=0.02)
    assert abs(noise.mean().item()) < 0.1
    assert not torch.equal(noise[0], noise[1])


def test_relative_gaussian_follows_the_size_of_the_own_update():
    deltas = rows(6, 20_000)
    deltas[1] *= 100.0
    coalition, knowledge = a_round(deltas, 2)
    noise = Gaussian(std=2.0, relative=True).craft(coalition, knowledge)
    size = coalition.deltas.square().mean(dim=1).sqrt()
    assert torch.allclose(noise.std(dim=1), 2.0 * size, rtol=0.02)


def test_gaussian_ruins_an_average():
    coalition, knowledge = a_round(rows(10, std=0.01), 2)
    honest = knowledge.updates.deltas
    average = torch.cat([honest, Gaussian().craft(coalition, knowledge)]).mean(dim=0)
    assert (average - honest.mean(dim=0)).norm() > 2.0 * honest.mean(dim=0).norm()


def test_zero_update_changes_nothing():
    coalition, knowledge = a_round(rows(6), 2)
    assert not ZeroUpdate().craft(coalition, knowledge).any()


def test_free_rider_fades():
    attack = FreeRider(std=0.1, decay=1.0)
    sizes = []
    for server_round in (1, 10):
        coalition, knowledge = a_round(rows(6, 20_000), 2, server_round=server_round)
        sizes.append(attack.craft(coalition, knowledge).std().item())
    assert sizes[0] == pytest.approx(0.1, rel=0.02)
    assert sizes[1] == pytest.approx(0.01, rel=0.02)


def test_ipm_is_minus_epsilon_times_the_mean():
    coalition, knowledge = a_round(rows(8), 2)
    crafted = Ipm(epsilon=0.5).craft(coalition, knowledge)
    expected = -0.5 * knowledge.updates.deltas.mean(dim=0)
    assert torch.allclose(crafted, expected.expand(2, -1))


def test_default_ipm_turns_the_plain_mean_round():
    coalition, knowledge = a_round(rows(10), 3)
    honest = knowledge.updates.deltas
    average = torch.cat([honest, Ipm().craft(coalition, knowledge)]).mean(dim=0)
    assert torch.allclose(average, -honest.sum(dim=0) / 10, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: SignFlip(scale=0.0), "scale"),
        (lambda: Gaussian(std=float("nan")), "std"),
        (lambda: Alie(z=-1.0), "z"),
        (lambda: MinMax(direction="up"), "direction"),
        (lambda: Ipm(epsilon=0.0), "epsilon"),
        (lambda: FreeRider(decay=-1.0), "decay"),
        (lambda: FangTrim(b=1.0), "b"),
        (lambda: FangKrum(threshold=0.0), "threshold"),
        (lambda: Rop(angle=200.0), "angle"),
        (lambda: AdaptiveAlie(evaluations=0), "evaluations"),
        (lambda: AdaptiveGemini(stretch=0.5), "stretch"),
    ],
)
def test_bad_arguments_are_refused(make, field):
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.field == field
