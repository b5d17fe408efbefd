"""The returned gradients of `vfl-noisy-sparse`: how noisy, how sparse, and for whom."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from fedguard.errors import ConfigurationError
from fedguard.vertical.label_holder import LabelHolder
from fedguard.vertical.models import make_top
from fedguard.vertical.noisy_sparse import NoisySparseVfl
from fedguard.vertical.schedule import BatchSchedule
from fedguard.vertical.terms import Optimiser

ROWS, PARTIES, WIDTH = 200, 3, 16


def bound(seed=0, **options):
    strategy = NoisySparseVfl(embedding=WIDTH, seed=seed, **options)
    y = torch.randint(4, (ROWS,), generator=torch.Generator().manual_seed(1))
    holder = LabelHolder(y, y, 4, make_top(PARTIES, WIDTH, 4, "modern", False, 0), Optimiser(0.0))
    strategy.bind(holder, BatchSchedule(ROWS, ROWS, 0), PARTIES)
    return strategy


def released():
    stream = torch.Generator().manual_seed(2)
    return {p: {"embedding": torch.randn(ROWS, WIDTH, generator=stream)} for p in range(PARTIES)}


def gradients(strategy):
    """Return what goes back to each party, and the plain gradients of the rows' own losses."""
    step, found = strategy.step(released(), torch.arange(ROWS))
    return found, ROWS * step.gradients.transpose(0, 1)


def test_without_noise_or_thinning_the_gradients_are_plain():
    found, plain = gradients(bound(noise=0.0, threshold=0.0, keep=1.0))
    for party, gradient in found.items():
        torch.testing.assert_close(ROWS * gradient, plain[party])


def test_the_label_holders_own_gradient_is_left_alone():
    found, plain = gradients(bound(noise=5.0, threshold=1.0, keep=0.1))
    torch.testing.assert_close(ROWS * found[0], plain[0])
    assert not torch.allclose(ROWS * found[1], plain[1], atol=0.5)


def test_the_noise_has_the_deviation_asked_for_on_a_rows_own_gradient():
    found, plain = gradients(bound(noise=0.7, threshold=0.0, keep=1.0))
    added = torch.cat([(ROWS * found[p] - plain[p]).flatten() for p in (1, 2)])
    count = added.numel()
    assert abs(float(added.mean())) < 4 * 0.7 / math.sqrt(count)
    assert float(added.std()) == pytest.approx(0.7, rel=4 / math.sqrt(2 * count))
    one, other = torch.chunk(added, 2)
    assert abs(float((one * other).mean())) / 0.49 < 4 / math.sqrt(count / 2)


def test_what_is_kept_is_large_and_is_what_the_noise_made_it():
    noisy, _ = gradients(bound(noise=0.5, threshold=0.0, keep=1.0))
    thin, _ = gradients(bound(noise=0.5, threshold=0.4, keep=1.0))
    for party in (1, 2):
        large = (ROWS * noisy[party]).abs() > 0.4
        assert torch.equal(thin[party] != 0, large)
        assert torch.equal(thin[party][large], noisy[party][large])


def test_the_share_above_the_threshold_is_the_gaussians():
    """Where noise is all there is to see, P(|x| > t) = 2 Phi(-t / noise)."""
    thin, _ = gradients(bound(noise=100.0, threshold=150.0, keep=1.0))
    share = float(torch.cat([thin[1], thin[2]]).count_nonzero()) / (2 * ROWS * WIDTH)
    expected = 2 * norm.cdf(-1.5)
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected / (2 * ROWS * WIDTH)))


@pytest.mark.parametrize("keep", [0.01, 0.25, 0.5])
def test_at_most_a_share_is_kept_and_drawn_evenly(keep):
    strategy = bound(noise=1e-3, threshold=0.0, keep=keep)
    most = int(keep * ROWS * WIDTH)
    times = torch.zeros(ROWS, WIDTH)
    for _ in range(40):
        found, _ = gradients(strategy)
        assert int(found[1].count_nonzero()) == most
        times += found[1] != 0
    rate = times / 40
    # large entries are kept no more often than small ones, and no column more than another
    spread = math.sqrt(keep * (1 - keep) / (40 * ROWS))
    assert rate.mean(dim=0).tolist() == pytest.approx([keep] * WIDTH, abs=5 * spread)
    size = strategy._holder.step(
        {p: r["embedding"] for p, r in released().items()}, torch.arange(ROWS)
    )
    sizes = size.gradients[:, 1].abs().flatten()
    upper = rate.flatten()[sizes > sizes.median()].mean()
    assert float(upper) == pytest.approx(keep, abs=5 * spread / math.sqrt(WIDTH / 2))


def test_noise_is_new_for_each_step_and_party_and_goes_on_after_a_restart():
    one = bound(noise=1.0, threshold=0.0, keep=1.0)
    first, plain = gradients(one)
    state = one.state()
    second, _ = gradients(one)
    assert not torch.equal(first[1], second[1])
    a, b = ROWS * first[1] - plain[1], ROWS * first[2] - plain[2]
    assert not torch.allclose(a, b, atol=0.1)
    other = bound(noise=1.0, threshold=0.0, keep=1.0)
    other.load_state(state)
    assert torch.equal(gradients(other)[0][2], second[2])
    assert not torch.equal(gradients(bound(seed=1, noise=1.0))[0][1], first[1])


@pytest.mark.parametrize(
    ("name", "value"), [("noise", -0.1), ("threshold", -1.0), ("keep", 0.0), ("keep", 1.1)]
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=name):
        NoisySparseVfl(**{name: value})
