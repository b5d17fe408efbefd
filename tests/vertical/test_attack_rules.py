"""Each attack's rule by itself, on parties and label holders small enough to know by heart."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.errors import ConfigurationError
from fedguard.vertical.attacks.backdoor import VerticalBackdoor
from fedguard.vertical.attacks.base import Evidence, NoAttack, VerticalAttack
from fedguard.vertical.attacks.completion import ActiveCompletion, PassiveCompletion
from fedguard.vertical.attacks.features import FeatureReconstruction, last_releases
from fedguard.vertical.attacks.few_labels import FewLabelClassifier, draw_known, standardised
from fedguard.vertical.attacks.gradients import GradientLabelInference
from fedguard.vertical.attacks.incentives import (
    ColludingDuplicates,
    FreeRiderParty,
    LyingCost,
    LyingNoise,
)
from fedguard.vertical.data import PartyView
from fedguard.vertical.label_holder import LabelHolder
from fedguard.vertical.models import TopModel
from fedguard.vertical.terms import Claim, Optimiser, PartyTerms, PrivacyTerms

PRIVACY = PrivacyTerms(1.0, 1e-5, 2.0, 9.0, 0.1, at_inference=False)


@dataclass
class Known:
    """A party that an attack may see, with embeddings as the test wants them."""

    index: int
    view: PartyView
    bottom: nn.Module = field(default_factory=nn.Identity)
    terms: PartyTerms = PartyTerms(4)  # noqa: RUF009
    sigma: float = 0.0
    seed: int = 0
    parameters: list[nn.Parameter] = field(default_factory=list)
    memory: dict[str, Tensor] = field(default_factory=dict)

    def clean_embeddings(self, *, test: bool = False) -> Tensor:
        return self.bottom(self.view.x_test if test else self.view.x_train).detach()


@dataclass
class Holder:
    y_train: Tensor
    num_classes: int


def view(x):
    return PartyView(x, x[:5])


# --- who attacks --------------------------------------------------------------------------------


def test_attackers_are_passive_parties_drawn_by_seed():
    attack = VerticalAttack()
    times = torch.zeros(6)
    for seed in range(600):
        chosen = attack.choose(6, 0.3, seed)
        assert chosen == attack.choose(6, 0.3, seed)
        assert len(chosen) == len(set(chosen)) == 2  # round(0.3 * 6)
        for party in chosen:
            times[party] += 1
    assert times[0] == 0
    assert times[1:].tolist() == pytest.approx([240] * 5, abs=5 * (600 * 0.4 * 0.6) ** 0.5)


def test_named_attackers_must_be_passive_parties():
    assert VerticalAttack(parties=(3, 1, 3)).choose(4, 0.0, 0) == (1, 3)
    for parties in ((0,), (4,), (), (-1,)):
        with pytest.raises(ConfigurationError, match=r"attack\.parties"):
            VerticalAttack(parties=parties).choose(4, 0.2, 0)


def test_how_many_attack():
    assert VerticalAttack().choose(5, 0.0, 0) == ()
    assert len(VerticalAttack().choose(5, 0.01, 0)) == 1
    assert len(VerticalAttack().choose(5, 0.9, 0)) == 4
    assert len(ColludingDuplicates().choose(5, 0.2, 0)) == 2
    with pytest.raises(ConfigurationError, match="3 parties"):
        ColludingDuplicates().choose(2, 0.5, 0)
    assert NoAttack().choose(5, 0.9, 0) == ()


# --- backdoor -----------------------------------------------------------------------------------


def test_the_trigger_is_added_to_the_known_rows_of_the_target_class():
    y = torch.arange(90) % 3
    attack = VerticalBackdoor(target=1, known_rows=12, strength=2.5)
    attack.bind(y, 3, seed=4)
    assert len(attack.known) == 12 == len(attack.known.unique())
    assert set(y[attack.known].tolist()) == {1}
    party, ids = Known(2, view(torch.zeros(90, 4))), torch.arange(0, 90)
    h = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    marked = attack.before_release(party, h, 1, ids)
    moved = marked - h
    changed = moved.abs().sum(dim=1) > 0
    assert set(ids[changed].tolist()) == set(attack.known.tolist())
    length = 2.5 * float(h.norm(dim=1).mean())
    assert moved[changed].norm(dim=1).tolist() == pytest.approx([length] * 12, rel=1e-4)
    directions = functional.normalize(moved[changed], dim=1)
    torch.testing.assert_close(directions, directions[:1].expand(12, -1))
    triggered = attack.triggered(party, h) - h
    torch.testing.assert_close(functional.normalize(triggered, dim=1)[:12], directions)


def test_a_batch_without_known_rows_is_left_as_it_is():
    attack = VerticalBackdoor(target=1, known_rows=3)
    attack.bind(torch.arange(90) % 3, 3, seed=4)
    h = torch.randn(5, 4)
    ids = torch.tensor([0, 2, 3, 5, 6])  # classes 0 and 2
    assert torch.equal(attack.before_release(Known(2, view(h)), h, 1, ids), h)
    with pytest.raises(ConfigurationError, match=r"attack\.target"):
        VerticalBackdoor(target=3).bind(torch.arange(90) % 3, 3, 0)


# --- label inference ----------------------------------------------------------------------------


def gradients_of(y, parties=2, width=6, rows=120):
    """Return the gradients that come back from a linear label holder that knows nothing yet."""
    top = TopModel(parties, width, 3, (8,), activation=False)
    holder = LabelHolder(y, y, 3, top, Optimiser(0.0))
    stream = torch.Generator().manual_seed(0)
    blocks = {p: 0.1 * torch.randn(rows, width, generator=stream) for p in range(parties)}
    return holder.step(blocks, torch.arange(rows)).gradients


def test_the_gradients_of_a_linear_label_holder_give_every_label_away():
    torch.manual_seed(0)
    y = torch.arange(120) % 3
    attack = GradientLabelInference(labels_per_class=1, at_round=2)
    party = Known(1, view(torch.zeros(120, 4)))
    ids = torch.randperm(120)
    back = gradients_of(y)[:, 1]
    for server_round, gradient in ((1, -back), (2, back), (3, torch.zeros_like(back))):
        for part in ids.split(50):
            kept = attack.on_gradient(party, gradient[part], server_round, part)
            assert torch.equal(kept, gradient[part])
    assert torch.equal(party.memory["gradients"], back)
    evidence = Evidence([party, party], (1,), Holder(y, 3), 0, 3)
    assert attack.measure(evidence) == {"success": 1.0}


def test_gradients_that_say_nothing_are_worth_a_guess():
    y = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    attack = GradientLabelInference(labels_per_class=1)
    party = Known(1, view(torch.zeros(100, 4)))
    evidence = Evidence([party, party], (1,), Holder(y, 3), 0, 3)
    assert attack.measure(evidence) == {"success": 0.7}  # nothing kept: the commonest class
    # a loss difference is no gradient of a row, whatever the round
    attack.on_gradient(party, torch.ones(1), 2, torch.arange(10))
    assert party.memory == {}
    party.memory["gradients"] = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    assert attack.measure(evidence)["success"] < 0.7


def test_active_completion_scales_what_keeps_its_sign():
    attack = ActiveCompletion(gamma=2.0)
    weight = nn.Parameter(torch.zeros(6))
    party = Known(1, view(torch.zeros(3, 2)), parameters=[weight])
    weight.grad = torch.tensor([1.0, 1.0, 1.0, 1.0, 1e-5, 1.0])
    attack.before_step(party)
    assert weight.grad.tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0, 1e-5, 1.0])
    weight.grad = torch.tensor([0.5, -1.0, 3.0, 0.1, 9e-5, 0.0])
    attack.before_step(party)
    # 1 + 2 g_t / g_(t-1): 2, -1 -> 1, 7 -> 5, 1.2, too small to touch, 1
    assert weight.grad.tolist() == pytest.approx([1.0, -1.0, 15.0, 0.12, 9e-5, 0.0], rel=1e-4)
    weight.grad = torch.tensor([0.5] * 6)
    attack.before_step(party)
    # the ratio is to the raw gradient of the step before, not to the scaled one
    assert float(weight.grad[0]) == pytest.approx(0.5 * 3.0, rel=1e-4)


def test_completion_reads_labels_that_the_embedding_separates():
    stream = torch.Generator().manual_seed(0)
    y = torch.randint(3, (300,), generator=stream)
    x = torch.randn(300, 5, generator=stream)
    tells = 6.0 * functional.one_hot(y, 5).float() + torch.randn(300, 5, generator=stream)
    spy = Known(1, view(x))
    spy.clean_embeddings = lambda **_: tells
    evidence = Evidence([spy, spy], (1,), Holder(y, 3), 0, 3)
    found = PassiveCompletion(labels_per_class=2).measure(evidence)
    assert found["success"] > 0.98
    assert found["untrained"] < 0.5  # its raw features are noise


def test_known_labels_are_drawn_per_class_and_standardised_columns_are_unit():
    y = torch.tensor([0] * 50 + [1] * 3 + [2] * 40)
    known = draw_known(y, 4, 3, seed=1)
    assert y[known].tolist() == [0] * 4 + [1] * 3 + [2] * 4
    assert torch.equal(known, draw_known(y, 4, 3, seed=1))
    assert not torch.equal(known, draw_known(y, 4, 3, seed=2))
    features = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * 7 + 2
    features[:, 2] = 5.0  # a column that never changes
    flat = standardised(features)
    assert flat.mean(dim=0).tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    assert flat.std(dim=0).tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-5)


def test_the_head_is_the_same_for_the_same_seed():
    x, y = torch.randn(60, 4), torch.arange(60) % 2
    known = torch.arange(10)

    def weights(seed):
        model = FewLabelClassifier(4, 2, seed, steps=5).fit(x, known, y[known])
        return torch.cat([p.detach().flatten() for p in model.head.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


# --- features -----------------------------------------------------------------------------------


def victim(sigma=0.0, privacy=None):
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(3))
    bottom = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        bottom.weight.copy_(torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.5], [0.3, 0.0, 1.0]]))
    terms = PartyTerms(3, privacy)
    return Known(1, view(x), bottom, terms, sigma, parameters=list(bottom.parameters()))


def test_a_model_that_can_be_turned_round_gives_the_features_away():
    target = victim()
    own = Known(0, view(torch.zeros(200, 2)))
    evidence = Evidence([own, target], (1,), Holder(torch.zeros(200), 2), 0, 3)
    found = FeatureReconstruction(known_rows=30, epochs=60).measure(evidence)
    assert found["success"] == pytest.approx(1 - found["feature_mse"] / found["baseline_mse"])
    assert found["success"] > 0.8
    assert found["baseline_mse"] == pytest.approx(1.0, rel=0.2)  # features have variance 1
    assert all(p.requires_grad for p in target.parameters)


def test_releases_are_looked_at_with_fresh_noise_of_the_partys_size():
    target = victim(sigma=0.8)
    added = last_releases(target, 5) - target.clean_embeddings()
    assert added.std().item() == pytest.approx(0.8, rel=0.1)
    assert torch.equal(last_releases(target, 5), last_releases(target, 5))
    assert not torch.equal(last_releases(target, 5), last_releases(target, 6))
    assert torch.equal(last_releases(victim(), 5), victim().clean_embeddings())


def test_noise_lowers_the_trust_in_a_release():
    """C^2 / (C^2 + E sigma^2)."""
    assert FeatureReconstruction._trust(victim()) == 1.0
    noisy = victim(sigma=2.0, privacy=PRIVACY)
    assert FeatureReconstruction._trust(noisy) == pytest.approx(1.0 / (1.0 + 3 * 4.0))


# --- pay ----------------------------------------------------------------------------------------


def test_a_free_rider_has_noise_of_the_right_shape_and_nothing_else():
    views = [view(torch.full((500, 4), float(p))) for p in range(4)]
    attack = FreeRiderParty()
    attack.bind(torch.zeros(500, dtype=torch.int64), 2, seed=3)
    changed = attack.views(views, (1, 3))
    assert all(changed[p] is views[p] for p in (0, 2))
    for party in (1, 3):
        assert changed[party].x_train.shape == (500, 4)
        assert changed[party].x_test.shape == (5, 4)
        assert changed[party].x_train.std().item() == pytest.approx(1.0, rel=0.1)
    assert not torch.equal(changed[1].x_train, changed[3].x_train)
    assert torch.equal(changed[1].x_train, attack.views(views, (1,))[1].x_train)


def test_duplicates_hold_the_first_ones_features():
    views = [view(torch.full((6, 4), float(p))) for p in range(4)]
    changed = ColludingDuplicates().views(views, (1, 3))
    assert [float(one.x_train[0, 0]) for one in changed] == [0.0, 1.0, 2.0, 1.0]


def test_liars_claim_more_privacy_or_more_cost():
    private = Known(1, view(torch.zeros(3, 2)), terms=PartyTerms(4, PRIVACY))
    open_ = Known(1, view(torch.zeros(3, 2)))
    honest = Claim(7.0, 3.0)
    assert LyingNoise().claim(private, honest) == Claim(2.0, 3.0)
    assert LyingNoise().claim(open_, honest) == honest
    assert LyingNoise(factor=0.25).noise_factor == 0.25
    assert LyingCost(factor=4.0).claim(private, honest) == Claim(7.0, 12.0)
    assert LyingCost(factor=0.5).claim(open_, honest) == Claim(7.0, 1.5)


@pytest.mark.parametrize(
    ("attack", "name", "value"),
    [
        (LyingNoise, "factor", 1.5),
        (LyingCost, "factor", 0.0),
        (VerticalBackdoor, "known_rows", 0),
        (VerticalBackdoor, "strength", 0.0),
        (ActiveCompletion, "gamma", 0.0),
        (PassiveCompletion, "labels_per_class", 0),
        (GradientLabelInference, "at_round", 0),
        (FeatureReconstruction, "known_rows", -1),
        (FeatureReconstruction, "epochs", 0),
    ],
)
def test_settings_out_of_range_are_refused(attack, name, value):
    with pytest.raises(ConfigurationError, match=name):
        attack(**{name: value})
