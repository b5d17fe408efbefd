from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

from fedguard.metrics.membership import Membership, losses, membership, tell_apart
from fedguard.randomness import generator


def test_known_cases():
    far = tell_apart(torch.full((50,), 2.0), torch.zeros(50))
    assert far is not None
    assert far.auc == 1.0
    assert far.tpr_at_low_fpr == 1.0
    backwards = tell_apart(torch.zeros(50), torch.ones(50))
    assert backwards is not None
    assert backwards.auc == 0.0
    # A pair of four is out of order.
    mixed = tell_apart(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0]))
    assert mixed is not None
    assert mixed.auc == pytest.approx(0.75)
    assert mixed.tpr_at_low_fpr == pytest.approx(0.5)


def test_one_distribution_is_a_guess():
    rng = generator(0, 0, 0, "scores")
    found = tell_apart(torch.randn(4000, generator=rng), torch.randn(4000, generator=rng))
    assert found is not None
    assert found.auc == pytest.approx(0.5, abs=0.02)
    assert found.tpr_at_low_fpr < 0.03


def test_gaussians_one_apart_have_the_known_area():
    rng = generator(1, 0, 0, "scores")
    found = tell_apart(1.0 + torch.randn(20_000, generator=rng), torch.randn(20_000, generator=rng))
    assert found is not None
    # Phi(1 / sqrt 2)
    assert found.auc == pytest.approx(0.7602, abs=0.01)


def test_without_one_side_there_is_nothing_to_tell():
    assert tell_apart(torch.ones(3), torch.empty(0)) is None


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("sizes", [(200, 300), (37, 5), (1, 500), (400, 100)])
def test_area_and_rate_are_scikit_learns_and_pair_countings(sizes, ties):
    rng = generator(3, sizes[0], sizes[1], "scores")
    members = 0.7 + torch.randn(sizes[0], generator=rng, dtype=torch.float64)
    others = torch.randn(sizes[1], generator=rng, dtype=torch.float64)
    if ties:
        members, others = members.round(decimals=1), others.round(decimals=1)
    found = tell_apart(members, others)
    assert found is not None
    truth = [1] * sizes[0] + [0] * sizes[1]
    scores = torch.cat([members, others]).tolist()
    assert found.auc == pytest.approx(roc_auc_score(truth, scores))
    pairs = members[:, None] - others[None, :]
    assert found.auc == pytest.approx(float(((pairs > 0) + 0.5 * (pairs == 0)).double().mean()))
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found.tpr_at_low_fpr == pytest.approx(true[false <= 0.01].max())
    # The threshold may let through at most one in a hundred of the others.
    allowed = int(0.01 * sizes[1])
    limit = others.sort(descending=True).values[allowed]
    assert found.tpr_at_low_fpr == pytest.approx(float((members > limit).double().mean()))


def test_order_alone_counts():
    rng = generator(4, 0, 0, "scores")
    members = torch.randn(100, generator=rng) + 1.0
    others = torch.randn(100, generator=rng)
    assert tell_apart(members, others) == tell_apart(members.exp(), others.exp())
    turned = tell_apart(-members, -others)
    found = tell_apart(members, others)
    assert found is not None
    assert turned is not None
    assert turned.auc == pytest.approx(1.0 - found.auc)


def test_scores_that_are_no_number_are_a_guess():
    nothing = torch.full((10,), float("nan"))
    assert tell_apart(nothing, nothing) == Membership(0.5, 0.0)


def test_losses_are_cross_entropy_of_each_example():
    weights = torch.tensor([[1.0, -1.0], [0.5, 2.0], [0.0, 0.0]])
    model = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(weights)
    x = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    y = torch.tensor([0, 1])
    found = losses(model, x, y)
    logits = (x @ weights.T).double()
    expected = logits.exp().sum(dim=1).log() - logits[[0, 1], y]
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_an_attack_without_references_goes_by_the_loss_alone():
    model = nn.Identity()
    members = (torch.tensor([[4.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0]))
    others = (torch.tensor([[0.0, 0.0], [3.5, 0.0]]), torch.tensor([0, 0]))
    found = membership(model, [], members, others)
    assert found == tell_apart(-losses(model, *members), -losses(model, *others))
    assert found is not None
    assert found.auc == 0.75


def test_several_references_are_averaged():
    """Two references of which each alone is wrong about the difficulty of one kind of example."""

    class Constant(nn.Module):
        def __init__(self, first, second):
            super().__init__()
            self.logits = torch.tensor([first, second])

        def forward(self, x):
            right = self.logits[x[:, 0].long()]
            return torch.stack([right, torch.zeros_like(right)], dim=1)

    members = (torch.zeros(5, 1), torch.zeros(5, dtype=torch.long))
    others = (torch.ones(5, 1), torch.zeros(5, dtype=torch.long))
    target, first, second = Constant(2.0, 2.0), Constant(-4.0, 4.0), Constant(4.0, 0.0)
    mean = {}
    for name, rows in (("members", members), ("others", others)):
        mean[name] = (losses(first, *rows) + losses(second, *rows)) / 2 - losses(target, *rows)
    expected = tell_apart(mean["members"], mean["others"])
    assert membership(target, [first, second], members, others) == expected
    assert expected is not None
    assert expected.auc == 1.0
    only_second = membership(target, [second], members, others)
    assert only_second is not None
    assert only_second.auc == 0.0


def test_references_take_difficulty_out():
    """Members are hard and known by heart, others easy: their loss alone tells the wrong way."""

    class Table(nn.Module):
        def __init__(self, confidence):
            super().__init__()
            self.confidence = confidence

        def forward(self, x):
            right = torch.where(x[:, 0] > 0, self.confidence[0], self.confidence[1])
            return torch.stack([right, torch.zeros_like(right)], dim=1)

    members = (torch.ones(20, 1), torch.zeros(20, dtype=torch.long))
    others = (-torch.ones(20, 1), torch.zeros(20, dtype=torch.long))
    target = Table(torch.tensor([1.0, 3.0]))
    reference = Table(torch.tensor([-3.0, 3.0]))
    plain = membership(target, [], members, others)
    calibrated = membership(target, [reference], members, others)
    assert plain is not None
    assert plain.auc == 0.0
    assert calibrated is not None
    assert calibrated.auc == 1.0
