from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import weibull_min
from sklearn.metrics import f1_score, recall_score
from torch import nn

from fedguard.errors import ConfigurationError
from fedguard.strategies.base import ServerTools
from fedguard.strategies.toolkit.scoring import _one_by_one, _scores, score_models
from fedguard.strategies.toolkit.weibull import Weibull, fit, fit_left_censored, mad_keep
from fedguard.strategies.weidetect import WeiDetect
from fedguard.testing import honest_updates, small_tools, with_deltas
from fedguard.updates import ClientUpdates, ParameterLayout

CLASSES = 3


def world(labels: str = "abc", per_class: int = 40) -> ServerTools:
    """A linear model on one indicator per class: weights decide which class is recognised."""
    y = torch.arange(CLASSES).repeat_interleave(per_class)
    y = y[torch.isin(y, torch.tensor(["abc".index(label) for label in labels]))]
    noise = torch.randn(len(y), CLASSES, generator=torch.Generator().manual_seed(7))
    x = torch.nn.functional.one_hot(y, CLASSES) + 0.05 * noise
    model = nn.Linear(CLASSES, CLASSES, bias=False)
    nn.init.zeros_(model.weight)
    return ServerTools(model, x, y, latent_layer="", num_classes=CLASSES)


def round_of(tools: ServerTools, models: list[torch.Tensor], start: torch.Tensor) -> ClientUpdates:
    layout = ParameterLayout.from_module(tools.model)
    vector = start.reshape(-1)
    deltas = torch.stack([model.reshape(-1) for model in models]) - vector
    return ClientUpdates.from_matrix(deltas, global_vector=vector, layout=layout, server_round=1)


GOOD = torch.eye(CLASSES) * 4.0
FLIPPED = torch.tensor([[4.0, 0.0, 0.0], [0.0, -8.0, 0.0], [0.0, 8.0, 4.0]])
"""Examples of class 1 are taken for class 2."""


def rule(tools: ServerTools, **options: object) -> WeiDetect:
    made = WeiDetect(**options)
    made.tools = tools
    return made


def honest(count: int, seed: int = 0) -> list[torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return [GOOD + 0.3 * torch.randn(3, 3, generator=stream) for _ in range(count)]


# --- phase 1 ---------------------------------------------------------------------------------


def test_scores_equal_scikit_learns_and_the_batched_pass_the_sequential_one():
    tools = small_tools()
    updates = honest_updates(7, std=0.5)
    models = updates.global_vector + updates.deltas
    found = score_models(tools, updates.layout, models)
    tools.model.eval()
    for row, vector in enumerate(models):
        updates.layout.load(tools.model, vector)
        with torch.no_grad():
            predicted = tools.model(tools.x).argmax(dim=1)
        y = tools.y.numpy()
        wanted = f1_score(y, predicted, average="macro", labels=range(4), zero_division=0)
        assert float(found.macro_f1[row]) == pytest.approx(wanted)
        recall = recall_score(y, predicted, average=None, labels=range(4), zero_division=0)
        np.testing.assert_allclose(found.recall[row], recall)
    with torch.no_grad():
        slow = _scores(_one_by_one(tools.model, updates.layout, models, tools.x), tools.y, 4)
    torch.testing.assert_close(slow.recall, found.recall)
    torch.testing.assert_close(slow.confidence, found.confidence, atol=1e-5, rtol=1e-5)


class _Unmappable(nn.Module):
    """A network that `torch.vmap` refuses: it branches on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(3, 3)

    def forward(self, x):
        out = self.output(x)
        return out if float(out.sum()) > 1e9 else out * 1.0


def test_a_network_without_a_batching_rule_is_scored_one_by_one():
    tools = world()
    module = _Unmappable()
    layout = ParameterLayout.from_module(module)
    other = ServerTools(module, tools.x, tools.y, latent_layer="", num_classes=3)
    models = torch.randn(4, layout.size, generator=torch.Generator().manual_seed(0))
    found = score_models(other, layout, models)
    assert found.macro_f1.shape == (4,)
    assert bool(found.finite.all())


def test_scores_around_a_model_are_those_of_the_whole_models():
    tools = world("abc")
    updates = round_of(tools, honest(6), GOOD)
    start = updates.global_vector
    whole = score_models(tools, updates.layout, torch.cat([start[None], start + updates.deltas]))
    around = score_models(tools, updates.layout, updates.deltas, start)
    torch.testing.assert_close(around.recall, whole.recall, equal_nan=True)
    torch.testing.assert_close(around.confidence, whole.confidence, equal_nan=True)
    assert torch.equal(around.macro_f1, whole.macro_f1)


def test_a_class_without_validation_examples_counts_for_nothing():
    tools = world("ab")
    updates = round_of(tools, honest(6), GOOD)
    found = score_models(tools, updates.layout, updates.global_vector + updates.deltas)
    assert torch.isnan(found.recall[:, 2]).all()
    torch.testing.assert_close(found.macro_f1, torch.ones(6, dtype=torch.float64))
    verdict = rule(tools).decide(updates)
    assert not verdict.reasons


# --- phase 2: the law ------------------------------------------------------------------------


def scores(rng, count: int, malicious: float, gap: tuple[float, float, float, float]):
    mean, std, low, low_std = gap
    bad = round(malicious * count)
    values = np.r_[rng.normal(mean, std, count - bad), rng.normal(low, low_std, bad)]
    return values.clip(0.0, 1.0), np.r_[np.zeros(count - bad, bool), np.ones(bad, bool)]


def rates(keep_of, malicious: float, trials: int = 60, gap=(0.86, 0.02, 0.55, 0.05)):
    """Mean share of malicious and of honest clients removed."""
    rng = np.random.default_rng(1)
    caught, lost = [], []
    for _ in range(trials):
        values, bad = scores(rng, 20, malicious, gap)
        keep = keep_of(values)
        caught.append((~keep[bad]).mean() if bad.any() else np.nan)
        lost.append((~keep[~bad]).mean())
    return float(np.nanmean(caught)) if malicious else None, float(np.mean(lost))


def plain(threshold: float):
    return lambda values: fit(values).cdf(values) >= threshold


def censored(threshold: float):
    return lambda values: fit_left_censored(values).cdf(values) >= threshold


def test_a_plain_fit_with_a_small_threshold_is_masked_and_a_censored_one_is_not():
    caught, _ = rates(plain(0.05), 0.4)
    assert caught < 0.3
    assert rates(plain(0.05), 0.2)[0] > 0.9  # masking needs many attackers
    caught, lost = rates(censored(0.02), 0.4)
    assert caught > 0.97
    assert lost < 0.02
    assert rates(censored(0.02), 0.0)[1] < 0.02
    caught, lost = rates(plain(0.25), 0.4)
    assert caught > 0.9
    assert lost < 0.05
    assert 0.2 < rates(plain(0.25), 0.0)[1] < 0.3  # the price of a large threshold


def test_no_scalar_rule_separates_a_gap_within_the_honest_spread():
    small = (0.78, 0.05, 0.66, 0.05)
    assert rates(censored(0.02), 0.4, gap=small)[0] < 0.3
    assert rates(plain(0.05), 0.4, gap=small)[0] < 0.3


def test_the_fit_is_scipys_and_the_censored_one_its_maximum():
    values = np.random.default_rng(0).normal(0.8, 0.05, 20).clip(0, 1)
    shape, _, scale = weibull_min.fit(np.sort(values), floc=0)
    assert fit(values) == Weibull(shape, scale)
    found = fit_left_censored(values)
    ordered = np.sort(values)

    def likelihood(law: Weibull) -> float:
        frozen = weibull_min(law.shape, 0, law.scale)
        return float(frozen.logpdf(ordered[10:]).sum() + 10 * frozen.logcdf(ordered[10]))

    for factor in (0.98, 1.02):
        assert likelihood(found) > likelihood(Weibull(found.shape * factor, found.scale))
        assert likelihood(found) > likelihood(Weibull(found.shape, found.scale * factor))
    assert fit_left_censored(values, share=0.0).shape == pytest.approx(shape, rel=1e-3)


@pytest.mark.parametrize(
    "values", [[0.5], [0.7] * 10, [0.0] * 6, [1.0] * 6, []], ids=["one", "same", "0", "1", "none"]
)
def test_scores_that_no_law_fits_give_none(values):
    assert fit(np.array(values, dtype=float)) is None
    assert fit_left_censored(np.array(values, dtype=float)) is None


def test_an_absurd_shape_is_refused():
    one_off = np.array([0.7] * 9 + [0.7 + 2e-6])
    assert fit(one_off) is None
    assert mad_keep(np.array([0.7] * 9 + [0.1])).tolist() == [True] * 9 + [False]


# --- the rule --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["weibull2", "exponweib"])
def test_the_top_t_reading_does_not_depend_on_the_fit(family):
    tools = world()
    rng = torch.Generator().manual_seed(3)
    models = [torch.randn(3, 3, generator=rng) for _ in range(12)]
    updates = round_of(tools, models, GOOD)
    verdict = rule(tools, mode="paper", selection="top", family=family).decide(updates)
    f1 = verdict.scores["macro_f1"]
    limit = f1.sort(descending=True).values[12 - 3 - 1]
    assert torch.equal(verdict.weights > 0, f1 >= limit)


def test_the_threshold_reading_keeps_by_the_cdf():
    tools = world()
    rng = torch.Generator().manual_seed(3)
    updates = round_of(tools, [torch.randn(3, 3, generator=rng) for _ in range(12)], GOOD)
    verdict = rule(tools, mode="paper", threshold=0.4).decide(updates)
    values = verdict.scores["macro_f1"].numpy()
    np.testing.assert_allclose(verdict.scores["weibull_cdf"], fit(values).cdf(values))
    assert torch.equal(verdict.weights > 0, verdict.scores["weibull_cdf"] >= 0.4)


@pytest.mark.parametrize("bad", [2, 4, 5])
def test_clients_that_flip_one_class_are_removed(bad):
    tools = world()
    updates = round_of(tools, [FLIPPED] * bad + honest(12 - bad), GOOD)
    verdict = rule(tools).decide(updates)
    assert set(verdict.reasons) == set(range(bad))
    assert "class 1" in verdict.reasons[0]


def test_one_class_of_fifteen_is_missed_by_f1_and_caught_by_recall():
    classes = 15
    y = torch.arange(classes).repeat_interleave(20)
    x = torch.nn.functional.one_hot(y, classes).float()
    tools = ServerTools(nn.Linear(classes, classes, bias=False), x, y, "", classes)
    good, flipped = 4.0 * torch.eye(classes), 4.0 * torch.eye(classes)
    flipped[1, 1], flipped[2, 1] = -40.0, 40.0
    stream = torch.Generator().manual_seed(0)
    others = [good + 0.2 * torch.randn(good.shape, generator=stream) for _ in range(9)]
    updates = round_of(tools, [flipped] * 3 + others, good)
    verdict = rule(tools).decide(updates)
    assert float(verdict.scores["macro_f1"][0]) > 0.9
    assert set(verdict.reasons) == {0, 1, 2}


def test_honest_rounds_lose_nobody():
    tools = world()
    for seed in range(5):
        verdict = rule(tools).decide(round_of(tools, honest(15, seed), GOOD))
        assert not verdict.reasons


def test_specialists_are_doubted_and_not_removed_where_the_average_stands():
    tools = world()
    specialist = GOOD.clone()
    specialist[1, 1], specialist[2, 1] = 1.0, 1.0  # half of class 1 is taken for class 2
    updates = round_of(tools, [specialist, *honest(11)], GOOD)
    verdict = rule(tools).decide(updates)
    assert not verdict.reasons
    assert float(verdict.weights[0] / verdict.weights[1]) == pytest.approx(0.1)
    assert float(verdict.scores["recall_shortfall"][0]) > 0


def noisy_world() -> tuple[ServerTools, torch.Tensor]:
    """Classes that overlap, and a start from which honest clients have far to go."""
    y = torch.arange(CLASSES).repeat_interleave(200)
    noise = torch.randn(len(y), CLASSES, generator=torch.Generator().manual_seed(7))
    x = torch.nn.functional.one_hot(y, CLASSES) + 0.35 * noise
    return ServerTools(nn.Linear(CLASSES, CLASSES, bias=False), x, y, "", CLASSES), 0.4 * GOOD


def recall_of_class_1(tools: ServerTools, model: torch.Tensor) -> float:
    x = tools.x[tools.y == 1]
    return float(((x @ model.T).argmax(dim=1) == 1).double().mean())


def leaning(shift: float) -> torch.Tensor:
    """A good model that leans from class 1 to class 2."""
    model = GOOD.clone()
    model[2, 1] += shift
    return model


@pytest.mark.parametrize(("tolerance", "removed"), [(0.03, True), (0.3, False)])
def test_a_group_of_suspects_goes_only_if_the_average_with_it_loses_recall(tolerance, removed):
    tools, start = noisy_world()
    models = [leaning(4.5)] * 4 + honest(8)
    verdict = rule(tools, tolerance=tolerance).decide(round_of(tools, models, start))
    alone = recall_of_class_1(tools, models[0])
    assert 0.25 * recall_of_class_1(tools, start) < alone < 0.8  # a suspect, not a lost class
    norms = torch.tensor([float((model - start).norm()) for model in models])
    clipped = [
        (model - start) * min(1.0, float(norms.sort().values[5:7].mean() / norm))
        for model, norm in zip(models, norms, strict=True)
    ]
    rest = torch.stack(clipped[4:]).mean(dim=0)
    joined = 0.6 * rest + 0.4 * torch.stack(clipped[:4]).mean(dim=0)
    lost = recall_of_class_1(tools, start + rest) - recall_of_class_1(tools, start + joined)
    assert (lost > tolerance) == removed
    assert set(verdict.reasons) == (set(range(4)) if removed else set())
    if not removed:
        assert float(verdict.weights[0] / verdict.weights[5]) == pytest.approx(0.1)


def test_a_removal_that_costs_more_than_it_saves_is_taken_back():
    """Every honest client lacks one class of three and forgets it; together they know all."""
    tools, _ = noisy_world()
    models = []
    for lacking in (0, 0, 0, 1, 1, 1, 2, 2, 2):
        model = GOOD.clone()
        model[lacking, lacking] = -4.0
        models.append(model)
    lean = GOOD + torch.tensor([[0.0, 0.0, 1.6], [1.6, 0.0, 0.0], [0.0, 1.6, 0.0]])
    updates = round_of(tools, [*models, lean], GOOD)
    judge = rule(tools)
    alone = judge.decide(updates.select(torch.tensor([9]))).scores["macro_f1"]
    verdict = judge.decide(updates)
    assert (verdict.scores["recall_shortfall"][:9] > 0.0).all()
    assert not verdict.reasons
    torch.testing.assert_close(verdict.weights, torch.full((10,), 0.1, dtype=torch.float64))
    assert float(alone) < 0.99


def test_a_cold_start_weighs_by_the_cdf():
    tools = world()
    weak = [torch.zeros(3, 3) for _ in range(2)]
    updates = round_of(tools, weak + honest(8), torch.zeros(3, 3))
    verdict = rule(tools).decide(updates)
    assert (verdict.weights[:2] < 0.1 * verdict.weights[2:].min()).all()


def test_identical_scores_remove_nobody_and_zeros_leave_the_model():
    tools = world()
    same = rule(tools).decide(round_of(tools, [GOOD * 1.5] * 7, GOOD))
    assert not same.reasons
    assert torch.allclose(same.weights, torch.full((7,), 1 / 7, dtype=torch.float64))
    wrong = -GOOD.roll(1, 0) - 9 * torch.eye(3)
    for mode in ("hardened", "paper"):
        nothing = rule(tools, mode=mode).decide(round_of(tools, [wrong] * 4, GOOD))
        if float(nothing.scores["macro_f1"].max()) == 0.0:
            assert not nothing.delta.any()
            assert len(nothing.reasons) == 4


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_rounds_too_small_to_fit_use_the_global_model_as_anchor(count):
    tools = world()
    verdict = rule(tools).decide(round_of(tools, honest(count), GOOD))
    assert not verdict.reasons
    assert (verdict.scores["weibull_cdf"] == 1).all()


def test_models_that_are_not_finite_are_removed_before_the_fit():
    tools = world()
    layout = ParameterLayout.from_module(tools.model)
    start = GOOD.reshape(-1)
    deltas = torch.stack([model.reshape(-1) for model in honest(8)]) - start
    found = score_models(
        tools, layout, torch.cat([start + deltas, torch.full((1, 9), float("inf"))])
    )
    assert found.finite.tolist() == [True] * 8 + [False]
    assert float(found.macro_f1[-1]) == 0.0


def test_pooled_scores_survive_a_restart():
    tools = world()
    first = rule(tools, pooled_rounds=2)
    for seed in range(3):
        first.decide(round_of(tools, honest(5, seed), GOOD))
    state = first.state()
    assert state["pooled_sizes"].tolist() == [5, 5]
    second = rule(tools, pooled_rounds=2)
    second.load_state(state)
    updates = round_of(tools, [*honest(5, 9), FLIPPED], GOOD)
    found, wanted = second.decide(updates), first.decide(updates)
    assert torch.equal(found.delta, wanted.delta)
    for name in wanted.scores:
        assert torch.equal(found.scores[name], wanted.scores[name])
    first.reset()
    assert first.state()["pooled_sizes"].numel() == 0


def test_claimed_sizes_are_capped():
    tools = world()
    updates = round_of(tools, honest(5), GOOD)
    claims = torch.tensor([1e9, 1.0, 1.0, 1.0, 1.0])
    boasting = ClientUpdates.from_matrix(
        updates.deltas, claims, None, updates.global_vector, updates.layout
    )
    assert float(rule(tools).decide(boasting).weights[0]) == pytest.approx(3 / 7)


def test_updates_are_clipped_to_the_median_norm():
    tools = world()
    updates = round_of(tools, honest(5), GOOD)
    deltas = updates.deltas.clone()
    deltas[0] *= 1e-3
    long = with_deltas(updates, torch.cat([deltas, 50.0 * updates.deltas[1:2]])[1:])
    verdict = rule(tools).decide(long)
    assert float(verdict.delta.norm()) <= 1.001 * float(long.deltas.norm(dim=1).median())


@pytest.mark.parametrize(
    "options",
    [{"mode": "x"}, {"selection": "x"}, {"family": "x"}, {"threshold": 2.0}, {"margin": -1.0}],
)
def test_bad_arguments_are_refused(options):
    with pytest.raises(ConfigurationError):
        WeiDetect(**options)
