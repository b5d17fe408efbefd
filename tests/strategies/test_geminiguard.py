from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from corners import CLASSES, FEATURES, HIDDEN, attacked, make_tools, rates, trained, updates_of

from fedguard.errors import ConfigurationError
from fedguard.strategies import GeminiGuard, Sentinel
from fedguard.strategies.base import ServerTools
from fedguard.strategies.toolkit.clustering import silhouette
from fedguard.strategies.toolkit.consensus import with_consensus_labels
from fedguard.traits import traits_of
from fedguard.updates import ClientUpdates, ParameterLayout

MODES = ("consensus", "paper")


@pytest.fixture
def tools() -> ServerTools:
    return make_tools()


def guard(tools: ServerTools | None, **arguments) -> GeminiGuard:
    strategy = GeminiGuard(**arguments)
    strategy.tools = tools
    return strategy


@pytest.mark.parametrize("kind", ["sign", "gaussian", "scale", "lie"])
def test_attackers_are_rejected_and_honest_clients_are_not(tools, kind):
    deltas, start, layout = trained(tools, 20)
    updates = updates_of(attacked(deltas, kind, 4), start, layout)
    caught, wronged = rates(guard(tools).combine(updates), 4)
    assert caught == 1.0
    assert wronged <= 0.2


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_identical_updates_of_a_coalition_are_dropped(tools, share):
    deltas, start, layout = trained(tools, 20)
    liars = int(20 * share)
    updates = updates_of(attacked(deltas, "lie", liars), start, layout)
    verdict = guard(tools).combine(updates)
    assert rates(verdict, liars)[0] == 1.0
    assert "near-identical" in verdict.reasons[0]


@pytest.mark.parametrize("rule", [GeminiGuard, Sentinel])
@pytest.mark.parametrize("liars", [2, 6, 8, 9])
@pytest.mark.parametrize("scale", [5.0, 30.0, 1e3, 1e8])
@pytest.mark.parametrize("where", ["apart", "near one point", "against the others"])
def test_honest_clients_are_no_copies_of_each_other_beside_far_ones(rule, liars, scale, where):
    """Far clients are in most pairs once they are 30 %, and must not set the scale of all."""
    rng = torch.Generator().manual_seed(liars)
    along = torch.randn(60, generator=rng)
    rows = along + 0.7 * torch.randn(20, 60, generator=rng)
    own = torch.randn(liars, 60, generator=rng)
    centre = {"apart": torch.zeros(60), "against the others": -along}.get(where, along.roll(1))
    rows[:liars] = scale * (centre + own)
    verdict = rule().decide(ClientUpdates.from_matrix(rows))
    assert rates(verdict, liars) == (1.0, 0.0)


@pytest.mark.parametrize("length", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("liars", [2, 4])
def test_updates_sent_backwards_are_found_at_usual_length(tools, length, liars):
    deltas, start, layout = trained(tools, 20)
    deltas[:liars] *= -length
    updates = updates_of(deltas, start, layout)
    caught, wronged = rates(guard(tools).combine(updates), liars)
    assert caught == 1.0
    assert wronged == rates(guard(tools, opposition=0.0).combine(updates), liars)[1]


def test_two_blocks_of_copies_and_nobody_else_are_averaged():
    rows = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3)
    verdict = GeminiGuard().decide(ClientUpdates.from_matrix(rows))
    assert verdict.delta.tolist() == [0.5, 0.5]


def test_groups_of_labels_are_not_taken_for_attackers(tools):
    """Five groups of clients that hold two of five labels each, nobody lies."""
    deltas, start, layout = trained(tools, 20, labels_per_client=2)
    updates = updates_of(deltas, start, layout)
    consensus = rates(guard(tools).combine(updates), 0)[1]
    paper = rates(guard(tools, mode="paper").combine(updates), 0)[1]
    assert consensus <= 0.05
    assert paper > consensus  # the majority's cluster is one group of honest clients


@pytest.mark.parametrize("mode", MODES)
class TestEdges:
    def test_every_small_cohort_gives_a_finite_model(self, tools, mode):
        deltas, start, layout = trained(tools, 6)
        for count in range(7):
            updates = updates_of(deltas[:count], start, layout)
            verdict = guard(tools, mode=mode).decide(updates)
            assert torch.isfinite(verdict.delta).all()
            assert verdict.weights.shape == (count,)
            assert (float(verdict.weights.sum()) == pytest.approx(1.0)) == (count > 0)

    def test_one_client_is_clipped_to_what_was_accepted_before(self, tools, mode):
        deltas, start, layout = trained(tools, 6)
        strategy = guard(tools, mode=mode)
        strategy.combine(updates_of(deltas, start, layout))
        typical = float(strategy.state()["accepted_norm"].median())
        verdict = strategy.combine(updates_of(100.0 * deltas[:1], start, layout))
        assert float(verdict.delta.norm()) == pytest.approx(typical, rel=1e-4)

    def test_the_first_round_with_one_client_takes_it_as_it_is(self, tools, mode):
        deltas, start, layout = trained(tools, 1)
        verdict = guard(tools, mode=mode).combine(updates_of(deltas, start, layout))
        torch.testing.assert_close(verdict.delta, deltas[0])

    def test_of_two_the_longer_is_clipped_to_the_shorter(self, tools, mode):
        deltas, start, layout = trained(tools, 2)
        deltas[1] *= 50.0
        verdict = guard(tools, mode=mode).combine(updates_of(deltas, start, layout))
        assert (verdict.weights > 0).all()
        assert float(verdict.delta.norm()) <= float(deltas[0].norm()) * 1.0001

    def test_of_three_the_far_one_goes(self, tools, mode):
        deltas, start, layout = trained(tools, 3)
        deltas[2] = -30.0 * deltas[2]
        verdict = guard(tools, mode=mode).combine(updates_of(deltas, start, layout))
        assert verdict.weights[2] == 0
        assert (verdict.weights[:2] > 0).all()

    def test_identical_updates_of_all_weigh_the_same(self, tools, mode):
        deltas, start, layout = trained(tools, 1)
        updates = updates_of(deltas.expand(8, -1).clone(), start, layout)
        verdict = guard(tools, mode=mode).combine(updates)
        np.testing.assert_allclose(verdict.weights, 1 / 8)
        torch.testing.assert_close(verdict.delta, deltas[0], atol=1e-6, rtol=1e-5)

    def test_nobody_moves(self, tools, mode):
        _, start, layout = trained(tools, 1)
        updates = updates_of(torch.zeros(6, layout.size), start, layout)
        verdict = guard(tools, mode=mode).combine(updates)
        assert float(verdict.delta.abs().max()) == 0.0
        assert all(torch.isfinite(score).all() for score in verdict.scores.values())

    def test_a_free_rider_is_no_division_by_zero(self, tools, mode):
        deltas, start, layout = trained(tools, 8)
        deltas[0] = 0.0
        verdict = guard(tools, mode=mode).combine(updates_of(deltas, start, layout))
        assert torch.isfinite(verdict.delta).all()

    def test_constant_activations_tell_nobody_apart(self, tools, mode):
        dead = ServerTools(tools.model, torch.zeros(20, FEATURES), tools.y[:20], "hidden", CLASSES)
        deltas, start, layout = trained(tools, 8)
        bias = layout.unflatten(deltas[0])  # all activations equal across examples
        assert bias
        verdict = guard(dead, mode=mode).combine(updates_of(deltas, start, layout))
        assert torch.isfinite(verdict.delta).all()

    def test_activations_that_overflow_reject_their_client(self, tools, mode):
        deltas, start, layout = trained(tools, 3)
        start = start.clone()
        deltas = torch.cat([deltas[:2], deltas[:1]])
        names = layout.unflatten(deltas[2])
        names["hidden.0.weight"].fill_(3e9)
        x = tools.x.clone()
        x[0] = 1e30
        loud = ServerTools(tools.model, x, tools.y, "hidden", CLASSES)
        verdict = guard(loud, mode=mode).combine(updates_of(deltas, start, layout))
        assert verdict.weights[2] == 0
        assert torch.isfinite(verdict.delta).all()

    def test_the_order_of_clients_decides_nothing(self, tools, mode):
        deltas, start, layout = trained(tools, 12, labels_per_client=3)
        deltas = attacked(deltas, "sign", 3)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
        one = guard(tools, mode=mode).combine(updates_of(deltas, start, layout))
        two = guard(tools, mode=mode).combine(updates_of(deltas[order], start, layout))
        assert torch.equal(one.weights[order] > 0, two.weights > 0)
        torch.testing.assert_close(one.delta, two.delta, atol=1e-5, rtol=1e-4)

    def test_without_a_model_the_first_view_still_works(self, mode):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            deltas = torch.randn(12, 500) + 2.0 * torch.randn(500)
        deltas[:2] *= -1.0
        verdict = guard(None, mode=mode).combine(ClientUpdates.from_matrix(deltas))
        assert (verdict.weights[:2] == 0).all()
        assert (verdict.weights[2:] > 0).double().mean() >= 0.5


def test_cosine_of_whole_models_keeps_its_digits():
    """Updates 1e-4 of the weights: float32 would see noise only."""
    stream = torch.Generator().manual_seed(0)
    start = torch.randn(50_000, generator=stream)
    deltas = 1e-4 * torch.randn(6, 50_000, generator=stream)
    updates = ClientUpdates.from_matrix(deltas, None, None, start)
    strategy = GeminiGuard(vector="weights")
    from fedguard.strategies.toolkit.distances import gram_matrix

    found = strategy._cosine(updates, gram_matrix(deltas))
    models = start.double() + deltas.double()
    unit = models / models.norm(dim=1, keepdim=True)
    expected = 1.0 - unit @ unit.T
    off = ~torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(found[off], expected[off], rtol=1e-3, atol=1e-13)
    assert float(found[off].min()) > 1e-9


def test_who_claims_more_may_be_longer_but_not_without_end(tools):
    deltas, start, layout = trained(tools, 8)
    deltas[6] *= 6.0
    deltas[7] *= 12.0
    claims = [10.0] * 6 + [160.0, 160.0]
    updates = ClientUpdates.from_matrix(deltas, claims, None, start, layout)
    verdict = guard(tools).combine(updates)
    assert 6 not in verdict.reasons
    assert "times as long" in verdict.reasons[7]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("mode", "paperr"),
        ("vector", "models"),
        ("max_clusters", 1),
        ("min_silhouette", 2.0),
        ("tau", 0.0),
        ("min_trust", -0.1),
        ("max_norm_ratio", 1.0),
        ("trigger_margin", -1.0),
        ("aux_samples", 1),
        ("tau", math.nan),
    ],
)
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ConfigurationError, match=argument):
        GeminiGuard(**{argument: value})


def latent_liar(tools: ServerTools) -> ClientUpdates:
    """Ten updates of equal norm at right angles; the first one's lies in the hidden bias alone."""
    layout = ParameterLayout.from_module(tools.model)
    start = layout.flatten(tools.model.state_dict())
    deltas = torch.randn(10, layout.size, generator=torch.Generator().manual_seed(6))
    deltas[0] = 0.0
    at = layout.offsets[layout.names.index("hidden.0.bias")]
    deltas[0, at : at + HIDDEN] = 1.0
    return updates_of(2.0 * deltas / deltas.norm(dim=1, keepdim=True), start, layout)


def test_paper_mode_rejects_by_the_latent_view_what_weights_do_not_show(tools):
    updates = latent_liar(tools)
    verdict = guard(tools, mode="paper", min_trust=0.5).combine(updates)
    assert verdict.reasons == {0: "latent representation unlike the others'"}
    trusting = guard(tools, mode="paper", min_trust=0.0).combine(updates)
    assert not trusting.reasons
    trust = trusting.scores["trust"]
    typical = trusting.scores["mmd"]
    torch.testing.assert_close(trust, torch.exp(-typical / typical.median()))
    assert float(trust[0]) < 0.5 * float(trust.median())


def test_the_old_mode_says_in_one_line_where_it_went():
    with pytest.raises(ConfigurationError, match="now strategy sentinel") as raised:
        GeminiGuard(mode="hardened")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("mode", MODES)
def test_no_mode_reads_the_labels(tools, mode):
    """Its league is unlabelled, and other labels change not a bit of what it does."""
    assert traits_of(GeminiGuard(mode=mode)).server_data == "unlabelled"
    deltas, start, layout = trained(tools, 12, labels_per_client=3)
    updates = updates_of(attacked(deltas, "sign", 3), start, layout)
    one = guard(tools, mode=mode).combine(updates)
    lies = ServerTools(tools.model, tools.x, (tools.y + 1) % CLASSES, "hidden", CLASSES)
    two = guard(lies, mode=mode).combine(updates)
    assert torch.equal(one.delta, two.delta)
    assert one.reasons == two.reasons


def test_labels_by_consensus_are_what_the_clipped_mean_says(tools):
    """One update a thousand times too long would decide them alone if it were not clipped."""
    deltas, start, layout = trained(tools, 8)
    deltas[0] *= -1000.0
    found = with_consensus_labels(tools, updates_of(deltas, start, layout))
    norms = deltas.norm(dim=1, keepdim=True)
    clipped = deltas * (norms.sort(dim=0).values[3:5].mean() / norms).clamp(max=1.0)
    layout.load(tools.model, start + clipped.mean(dim=0))
    wanted = tools.model(tools.x).argmax(dim=1)
    assert torch.equal(found.y, wanted)
    layout.load(tools.model, start + deltas.mean(dim=0))
    assert not torch.equal(found.y, tools.model(tools.x).argmax(dim=1))


@pytest.mark.parametrize("clusters", [2, 3, 5])
def test_the_silhouette_is_scikit_learns_to_the_last_bit(clusters: int) -> None:
    from sklearn.metrics import silhouette_score

    stream = np.random.default_rng(clusters)
    for count in (6, 13, 40):
        points = stream.normal(size=(count, 3))
        points[1] = points[0]  # a distance of 0 between two clients
        distances = np.linalg.norm(points[:, None] - points[None], axis=2)
        labels = np.arange(count) % clusters
        labels[0], labels[1] = 0, 0
        labels[-1] = clusters  # one that is alone
        expected = silhouette_score(distances, labels, metric="precomputed")
        assert silhouette(distances, labels) == expected
