"""Codes, losses and rankings by hand; any set of images as retrieval."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedguard.data.retrieval import Retrieval, class_codes
from fedguard.errors import ConfigurationError
from fedguard.metrics.retrieval import mean_average_precision, share_at_top, similarity
from fedguard.tasks.base import task_of
from fedguard.tasks.hashing import Hashing, ImageRetrieval


def test_central_codes_lie_half_their_bits_apart_and_are_the_same_for_all():
    codes = class_codes(10, 16, "csq")
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    gram = codes @ codes.T
    assert torch.equal(gram, 16 * torch.eye(10))
    assert torch.equal(codes, class_codes(10, 16, "csq"))
    many = class_codes(20, 16, "csq")
    assert float((many @ many.T - 16 * torch.eye(20)).max()) <= 0.0


@pytest.mark.parametrize(("loss", "bits"), [("dpn", 16), ("csq", 12)])
def test_drawn_codes_are_balanced_and_differ(loss, bits):
    codes = class_codes(6, bits, loss)
    assert codes.sum(dim=1).tolist() == [0.0] * 6
    assert len(codes.unique(dim=0)) == 6


def facts(loss):
    nothing = torch.empty(0)
    return Retrieval(loss, torch.tensor([[1.0, -1.0], [1.0, 1.0]]), nothing, nothing)


def test_csq_by_hand():
    u = torch.tensor([[0.5, 2.0]])
    p = [(math.tanh(v) + 1) / 2 for v in (0.5, 2.0)]
    wanted = -(math.log(p[0]) + math.log(1 - p[1])) / 2 + 1e-4 * (0.25 + 1.0) / 2
    assert float(facts("csq").losses(u, torch.tensor([0]))) == pytest.approx(wanted, rel=1e-5)
    far = facts("csq").losses(torch.tensor([[1e4, -1e4]]), torch.tensor([1]))
    assert bool(torch.isfinite(far).all())


def test_dpn_by_hand():
    found = facts("dpn").losses(torch.tensor([[0.5, 2.0], [3.0, 1.5]]), torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([(0.5 + 3.0) / 2, 0.0])


def test_average_precision_by_hand():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    relevant = torch.tensor([[True, False, True, False], [True, False, False, False], [False] * 4])
    assert mean_average_precision(scores, relevant) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 4) / 2)
    assert mean_average_precision(scores[2:], relevant[2:]) == 0.0


def test_rankings_go_by_hamming_distance_first():
    query = torch.tensor([[2.0, 2.0, -2.0]])
    gallery = torch.tensor([[0.1, 0.1, -0.1], [3.0, 3.0, 3.0], [2.0, 2.0, -2.0], [-3.0, -3.0, 3.0]])
    order = similarity(query, gallery)[0].argsort(descending=True).tolist()
    assert order == [2, 0, 1, 3]
    assert bool(torch.isfinite(similarity(query * math.nan, gallery)).all())


def test_the_share_at_the_top_by_hand():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    members = torch.tensor([True, False, False, True])
    assert share_at_top(scores, members, 1).tolist() == [1.0, 1.0]
    assert share_at_top(scores, members, 2).tolist() == [0.5, 0.5]
    assert share_at_top(scores, members, 40).tolist() == [0.5, 0.5]


def test_any_images_become_queries_and_a_gallery():
    data = ImageRetrieval(bits=16, loss="dpn", gallery=100).load(None)
    known = data.facts
    assert data.num_classes == 16
    assert data.name == "retrieval of digits"
    assert len(data.class_names) == len(known.codes) == 10
    assert len(known.gallery_x) == 100
    assert known.gallery_y.bincount(minlength=10).min() >= 8
    task = task_of(data)
    assert isinstance(task, Hashing)

    class Knows(nn.Module):
        """Gives every picture the code of its class, by looking it up."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.seen = torch.cat([known.gallery_x, data.x_test]).flatten(1)
            self.y = torch.cat([known.gallery_y, data.y_test])

        def forward(self, x):
            rows = torch.cdist(x.flatten(1), self.seen).argmin(dim=1)
            return 2 * known.codes[self.y[rows]] * self.weight

    perfect = Knows()
    found = task.evaluate(perfect, data.x_test[:50], data.y_test[:50])
    assert found["map"] == pytest.approx(1.0)
    assert found["loss"] == 0.0
    assert task.output_fault(torch.zeros(3, 16), 3, 16) is None
    assert "16 bits" in task.output_fault(torch.zeros(3, 10), 3, 16)


@pytest.mark.parametrize("arguments", [{"of": "retrieval"}, {"bits": 2}, {"loss": "mse"}])
def test_what_is_no_retrieval_is_refused(arguments):
    with pytest.raises(ConfigurationError):
        ImageRetrieval(**arguments)


def test_a_data_set_without_images_is_refused():
    with pytest.raises(ConfigurationError, match="data set of images"):
        ImageRetrieval(of="grammar").load(None)
