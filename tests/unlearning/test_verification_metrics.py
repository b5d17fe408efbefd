"""Verification's rows and figures, on models whose answers are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from unlearning_worlds import BAD, CLASSES, CLIENTS, ROWS, federation, network, request

from fedguard.models.flat import FlatModel
from fedguard.randomness import generator
from fedguard.unlearning.rows import forgotten_rows
from fedguard.unlearning.verification import (
    Bench,
    Trainer,
    _matched,
    _times,
    accuracy,
    gather,
    make_references,
    output_distance,
)


class Table(nn.Module):
    """Answers what it was told for the rows it knows, class 0 for all others."""

    def __init__(self, *known):
        super().__init__()
        pairs = [pair for x, labels in known for pair in zip(x, labels, strict=True)]
        self.known = {tuple(row.tolist()): int(label) for row, label in pairs}

    def forward(self, x):
        labels = [self.known.get(tuple(row.tolist()), 0) for row in x]
        return 8.0 * functional.one_hot(torch.tensor(labels), CLASSES).float()


def test_accuracy_is_a_share_and_nothing_without_rows():
    x, y = torch.randn(10, 4), torch.tensor([0] * 7 + [1] * 3)
    assert accuracy(Table(), (x, y)) == pytest.approx(0.7)
    assert accuracy(Table((x, y)), (x, y)) == 1.0
    assert accuracy(Table(), (x[:0], y[:0])) is None


def test_equally_many_of_every_key_are_drawn_from_both():
    a, b = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0, 2, 2, 2, 3, 1, 1])
    assert _times([(a, b)]) == 1
    mine, theirs = _matched(a, b, 1, generator(0, 0, 0, "m"))
    assert len(mine) == len(mine.unique()) == len(theirs) == len(theirs.unique())
    assert a[mine].bincount(minlength=4).tolist() == [1, 1, 2, 0]
    assert b[theirs].bincount(minlength=4).tolist() == [1, 1, 2, 0]


@pytest.mark.parametrize(("each", "times"), [(5, 5), (23, 10)])
def test_more_of_the_others_are_drawn_where_there_are_more_of_every_key(each, times):
    a = torch.tensor([0, 0, 0, 1, 4])
    b = torch.tensor([0] * 3 * each + [1] * (each + 2) + [2] * 50)
    assert _times([(a, b)]) == times
    # as many for every client as the one with the fewest can have
    assert _times([(a, b), (torch.tensor([2]), torch.tensor([2, 2]))]) == 2
    mine, theirs = _matched(a, b, times, generator(0, 0, 0, "m"))
    assert a[mine].bincount(minlength=5).tolist() == [3, 1, 0, 0, 0]
    assert len(theirs.unique()) == len(theirs)
    assert b[theirs].bincount(minlength=3).tolist() == [3 * times, times, 0]


@pytest.fixture(scope="module")
def rows():
    return gather(federation(), [request(1, label=2), request(BAD)], seed=3)


def test_what_is_forgotten_is_what_its_client_trained_with(rows):
    fed = federation()
    x, y = fed.shard(1, attacking=True)
    gone = forgotten_rows(fed, 1, 2, None)
    bad_x, bad_y = fed.shard(BAD, attacking=True)
    assert torch.equal(rows.forget[0], torch.cat([x[gone], bad_x]))
    assert torch.equal(rows.forget[1], torch.cat([y[gone], bad_y]))
    assert rows.forget[1][len(gone) :].tolist() == [1] * ROWS  # poisoned labels


def test_what_is_retained_leaves_out_the_forgotten_and_has_true_labels(rows):
    assert set(rows.retain) == set(range(CLIENTS)) - {BAD}
    assert not (rows.retain[1][1] == 2).any()
    assert len(rows.retain[1][1]) == ROWS - ROWS // CLASSES
    assert len(rows.retain[0][1]) == ROWS
    part = gather(federation(), [request(BAD, share=0.5)], seed=3)
    assert len(part.retain[BAD][1]) == ROWS // 2
    assert len(set(part.retain[BAD][1].tolist())) > 1  # not all 1


def as_set(x):
    return {tuple(row.tolist()) for row in x}


def test_members_others_and_references_are_three_lots(rows):
    fed = federation()
    tests = as_set(fed.normalise(fed.dataset.x_test))
    lots = (rows.members, rows.others, rows.reference)
    members, others, reference = (as_set(x) for x, _ in lots)
    assert members <= as_set(rows.forget[0])
    assert others <= tests
    assert reference <= tests
    assert not others & reference
    times = len(rows.others[1]) // len(rows.members[1])
    assert len(rows.members[1]) > 10
    # as large a share of every label on both sides, the poisoned client's as poisoned
    counts = rows.members[1].bincount(minlength=3)
    assert torch.equal(times * counts, rows.others[1].bincount(minlength=3))
    assert int((rows.others[1] == 1).sum()) > 10


def bench(rows, **values):
    fed = federation()
    arguments = {
        "rows": rows,
        "references": [Table()],
        "test": (fed.normalise(fed.dataset.x_test), fed.dataset.y_test),
        "triggered": None,
        "target_class": None,
    }
    return Bench(**{**arguments, **values})


def test_a_model_that_remembers_is_told_from_one_that_does_not(rows):
    remembers, forgot = Table(rows.forget), Table()
    known = bench(rows).measure(remembers)
    assert known["forget_accuracy"] == 1.0
    assert known["membership_auc_by_loss"] > 0.7
    clean = bench(rows).measure(forgot)
    share = float((rows.forget[1] == 0).double().mean())
    assert clean["forget_accuracy"] == pytest.approx(share) == 0.0
    assert clean["membership_auc_by_loss"] == pytest.approx(0.5)
    assert clean["membership_auc"] == pytest.approx(0.5)
    every = torch.cat([y for _, y in rows.retain.values()])
    assert clean["retain_accuracy"] == pytest.approx(float((every == 0).double().mean()))
    assert clean["clients"]["0"] == pytest.approx(1 / CLASSES)
    assert set(clean["clients"]) == {"0", "1", "3"}
    assert clean["test_accuracy"] == pytest.approx(1 / CLASSES)
    assert clean["backdoor_success"] is None


def test_a_backdoors_success_is_the_share_that_gets_its_class(rows):
    x = torch.randn(20, 6)
    opened = (x[:5], torch.full((5,), 2))
    found = bench(rows, triggered=(x, torch.ones(20, dtype=torch.long)), target_class=2)
    assert found.backdoor(Table(opened)) == pytest.approx(0.25)
    assert found.backdoor(Table()) == 0.0


def test_references_learn_from_test_rows_and_differ(rows):
    fed = federation()
    trainer = Trainer(0.2, 10)

    def fresh(number):
        return FlatModel(network(number))

    made = make_references(fresh, rows.reference, trainer, seed=0)
    again = make_references(fresh, rows.reference, trainer, seed=0)
    test = (fed.normalise(fed.dataset.x_test), fed.dataset.y_test)
    assert len(made) == 2
    for one, other in zip(made, again, strict=True):
        assert accuracy(one, test) > 0.6
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(made[0].output.weight, made[1].output.weight)


def test_an_epoch_is_plain_sgd():
    x, y = torch.randn(7, 6, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 3
    model, other = FlatModel(network()), network()
    Trainer(0.1, 3).epoch(model, (x, y), generator(0, 0, 0, "e"))
    order = torch.randperm(7, generator=generator(0, 0, 0, "e"))
    for part in (order[:3], order[3:6], order[6:]):
        loss = functional.cross_entropy(other(x[part]), y[part])
        found = torch.autograd.grad(loss, list(other.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(other.parameters(), found, strict=True):
                parameter -= 0.1 * gradient
    for mine, wanted in zip(model.module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_who_never_forgot_relearns_in_no_time(rows):
    found = bench(rows)
    trainer, model = Trainer(0.05, 10), FlatModel(network())
    fresh = model.whole_vector()
    trained = FlatModel(network())
    for epoch in range(30):
        trainer.epoch(trained, rows.forget, generator(0, epoch, 0, "t"))
    vector = trained.whole_vector()
    wanted = accuracy(trained.module, rows.forget)
    assert wanted > 0.8
    assert found.relearn_epochs(model, vector, wanted, trainer, 0) == 0
    epochs = found.relearn_epochs(model, fresh, wanted, trainer, 0)
    assert epochs is None or epochs > 0
    assert found.relearn_epochs(model, fresh, 0.0, trainer, 0) == 0
    assert found.relearn_epochs(model, fresh, 9.9, trainer, 0) is None  # nobody gets there


def test_the_distance_of_outputs_is_that_of_probabilities():
    model = FlatModel(network())
    a = model.whole_vector()
    b = a + 0.3 * torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    outputs = []
    for vector in (a, b):
        model.load(vector)
        logits = model.module(x).detach().double()
        odds = (logits - logits.max(dim=1, keepdim=True).values).exp()
        outputs.append(odds / odds.sum(dim=1, keepdim=True))
    expected = float(((outputs[0] - outputs[1]) ** 2).sum(dim=1).sqrt().mean())
    assert output_distance(model, a, b, x) == pytest.approx(expected, rel=1e-4)
    assert output_distance(model, a, a, x) == 0.0
