"""Fed-NAD: with beta 0 it is SGD; with more it looks where its teacher looks."""

from __future__ import annotations

import pytest
import torch

from fedguard.errors import ConfigurationError
from fedguard.testing.training import Classroom
from fedguard.training.attention import attention, attention_gap
from fedguard.training.fed_nad import FedNad
from fedguard.training.sgd import Sgd


def test_beta_0_is_sgd():
    assert torch.equal(Classroom(FedNad(beta=0.0)).train(0), Classroom(Sgd()).train(0))


def test_the_term_by_hand():
    seen = {"a": torch.tensor([[3.0, 0.0]]), "b": torch.tensor([[1.0, 1.0]])}
    shown = {"a": torch.tensor([[0.0, 2.0]]), "b": torch.tensor([[5.0, 5.0]])}
    assert float(attention_gap(seen, shown)) == pytest.approx(1.0, abs=1e-5)


def test_no_gradient_reaches_the_teacher():
    seen, shown = torch.rand(2, 3, requires_grad=True), torch.rand(2, 3, requires_grad=True)
    attention_gap({"a": seen}, {"a": shown}).backward()
    assert seen.grad is not None
    assert shown.grad is None


def test_a_large_beta_holds_the_attention_to_the_teachers():
    moved = {}
    for beta in (0.0, 300.0):
        room = Classroom(FedNad(beta=beta, teacher_lr=1e-6))  # the teacher: what was received
        x = room.trainer.federation.dataset.x_train
        room.trainer.model.load(room.start)
        module = room.trainer.model.module.eval()
        before = attention(module[:3](x))
        room.trainer.model.load(room.start + room.train(0))
        moved[beta] = float((attention(module.eval()[:3](x)) - before).detach().norm())
    assert moved[300.0] < 0.8 * moved[0.0]


def test_the_teacher_is_trained_by_rounds_and_clients_of_their_own():
    room = Classroom(FedNad(beta=5.0))
    assert not torch.equal(room.train(0, 1), room.train(0, 2))
    module = room.trainer.model.module
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.parametrize(
    "arguments", [{"beta": -1.0}, {"teacher_epochs": 0}, {"teacher_lr": 0.0}, {"stages": 0}]
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        FedNad(**arguments)
