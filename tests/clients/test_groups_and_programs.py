"""Groups of clients, their batches as tables, and the programs that train them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_federations import (
    SETTINGS,
    SIZES,
    Chain,
    Reader,
    make_trainer,
    text_dataset,
    toy_dataset,
    train_round,
)
from torch import nn

from fedguard.attacks.base import Attack
from fedguard.clients.dense import DenseProgram, chain_of
from fedguard.clients.executors import Cohort
from fedguard.clients.federation import Federation
from fedguard.clients.grouping import make_groups
from fedguard.clients.planner import Plan, make_executor, plan, settle
from fedguard.clients.training import ClientTrainer
from fedguard.clients.vmap import why_not
from fedguard.config import parse
from fedguard.randomness import generator
from fedguard.training.adam import Adam
from fedguard.training.fedprox import FedProx


def groups_of(trainer, size=64, *, exact=False, server_round=1, attacking=False):
    clients = tuple(range(trainer.federation.num_clients))
    vector = trainer.model.whole_vector()
    cohort = Cohort(clients, server_round, vector, attacking=attacking)
    return list(
        make_groups(trainer, cohort, range(len(clients)), size, trainer.settings, exact=exact)
    )


def test_clients_are_sorted_by_size_and_cut():
    groups = groups_of(make_trainer(), size=2)
    assert [group.positions for group in groups] == [(3, 0), (2, 1), (4,)]
    assert [group.sizes for group in groups] == [(16, 11), (7, 4), (4,)]


def test_exact_groups_hold_clients_of_one_size_alone():
    groups = groups_of(make_trainer(), exact=True)
    assert [group.positions for group in groups] == [(3,), (0,), (2,), (1, 4)]
    for group in groups:
        assert len(set(group.sizes)) == 1


def test_a_group_takes_the_batches_of_the_plain_loop():
    trainer = make_trainer()
    (group,) = groups_of(trainer, server_round=3)
    for row, position in enumerate(group.positions):
        own, taken = trainer.federation.shards[position], []
        for step in range(group.rows.shape[1]):
            real = group.weights[row, step] > 0
            taken.append(group.rows[row, step][real].tolist())
        taken = [batch for batch in taken if batch]
        stream = generator(trainer.seed, 3, position, "batches")
        wanted = []
        for _ in range(SETTINGS.local_epochs):
            order = own[torch.randperm(len(own), generator=stream)]
            wanted += [part.tolist() for part in torch.split(order, SETTINGS.batch_size)]
        assert taken == wanted


def test_weights_are_means_and_shares_those_of_the_last_epoch():
    (group,) = groups_of(make_trainer())
    sums = group.weights.sum(dim=2)
    for row, size in enumerate(group.sizes):
        steps = -(-size // SETTINGS.batch_size)
        assert sums[row, : 2 * steps].tolist() == pytest.approx([1.0] * (2 * steps))
        assert not bool(sums[row, 2 * steps :].any())
        assert not bool(group.shares[row, :steps].any())
        counts = [min(4, size - 4 * step) for step in range(steps)]
        found = group.shares[row, steps : 2 * steps].tolist()
        assert found == pytest.approx([count / size for count in counts])
    assert float(group.shares.sum()) == pytest.approx(len(SIZES))


def test_fewer_clients_are_active_the_later_the_step():
    (group,) = groups_of(make_trainer())
    assert group.sizes == (16, 11, 7, 4, 4)
    assert group.active == (5, 5, 3, 3, 2, 2, 1, 1)


def test_a_batch_beyond_the_largest_shard_is_no_padding():
    trainer = make_trainer(settings=replace(SETTINGS, batch_size=1000))
    (group,) = groups_of(trainer)
    assert group.rows.shape == (5, 2, 16)


class Shift(Attack):
    needs = frozenset({"data"})

    def poison(self, x, y, rng):
        return x + 100.0, torch.zeros_like(y)


def test_poisoned_clients_have_a_group_with_data_of_their_own():
    trainer = make_trainer(attack=Shift(), malicious=(1, 2))
    quiet, loud = groups_of(trainer), groups_of(trainer, attacking=True)
    assert [group.positions for group in quiet] == [(3, 0, 2, 1, 4)]
    assert [group.positions for group in loud] == [(3, 0, 4), (2, 1)]
    poisoned = loud[1]
    assert len(poisoned.x) == 7 + 4
    assert float(poisoned.x.min()) > 90.0
    for name in ("vmap", "dense"):
        expected, _ = train_round(trainer, "reuse", attacking=True)
        found, _ = train_round(trainer, name, attacking=True)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_the_dense_programs_gradient_is_autograds():
    trainer = make_trainer(settings=replace(SETTINGS, lr=1.0, local_epochs=1, batch_size=99))
    deltas, trained = train_round(trainer, "dense")
    for client, shard in enumerate(trainer.federation.shards):
        module = Chain()
        data = trainer.federation.dataset
        loss = nn.functional.cross_entropy(module(data.x_train[shard]), data.y_train[shard])
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        wanted = -torch.cat([gradient.flatten() for gradient in gradients])
        torch.testing.assert_close(deltas[client], wanted, atol=1e-5, rtol=1e-4)
        assert trained.losses[client] == pytest.approx(float(loss.detach()), abs=1e-5)


def test_no_chain_no_dense_program():
    assert chain_of(Reader()) is None
    with pytest.raises(ValueError, match="no chain"):
        DenseProgram(make_trainer(Reader(), dataset=text_dataset(sum(SIZES) + 2)), 2)


def test_vmap_is_tried_before_it_is_trusted():
    assert why_not(make_trainer()) is None
    assert why_not(make_trainer(Reader(), dataset=text_dataset(sum(SIZES) + 2))) is None
    assert why_not(make_trainer(nn.Sequential(nn.Dropout(), Chain()))).startswith(
        "the network draws random numbers"
    )


def test_trying_leaves_the_model_as_it_was():
    trainer = make_trainer()
    before = trainer.model.whole_vector()
    why_not(trainer)
    assert torch.equal(before, trainer.model.whole_vector())


@pytest.mark.parametrize(
    ("rule", "executor", "words"),
    [
        (Adam(), "vmap", "training Adam is not plain SGD"),
        (FedProx(mu=0.1), "dense", "training FedProx is not plain SGD"),
        (None, "vmap", "asked for"),
    ],
)
def test_the_plan_names_what_stands_in_the_way(rule, executor, words):
    chosen = plan(parse({"executor": executor}), make_trainer(rule=rule))
    assert words in chosen.reason
    assert chosen.executor == (executor if rule is None else "reuse")


def test_the_plan_by_engine_cohort_and_size():
    def chosen(module=None, **values):
        return plan(parse({"clients": 5, "fraction": 1.0, **values}), make_trainer(module))

    assert chosen().executor == "dense"
    assert chosen(fraction=0.6).executor == "reuse"
    assert "3 clients a round" in chosen(fraction=0.6).reason
    assert chosen(engine="ray").executor == "reuse"
    assert chosen(engine="flower").reason == "Flower hands over one client at a time"
    assert chosen(nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))).executor == "vmap"
    wide = nn.Sequential(nn.Linear(6, 9000), nn.Tanh(), nn.Linear(9000, 3))
    assert "leaves the cache" in chosen(wide).reason
    text = make_trainer(Reader(), dataset=text_dataset(sum(SIZES) + 2))
    assert "not the cross-entropy" in plan(parse({"executor": "dense"}), text).reason


def test_workers_are_the_threads_of_this_process():
    assert plan(parse({"workers": 3}), make_trainer()).threads == 3
    assert plan(parse({"workers": 3, "engine": "ray"}), make_trainer()).threads == 1
    executor = make_executor(Plan("reuse", "", 3), make_trainer())
    assert executor.threads == 3
    drawing = make_trainer(nn.Sequential(nn.Dropout(), Chain()))
    assert make_executor(Plan("reuse", "", 3), drawing).threads == 1


def test_what_is_not_measured_is_not_written_down(tmp_path):
    config = parse({})
    kept, chosen = settle(config, make_trainer(), tmp_path, resume=False)
    assert kept is config
    assert chosen.executor == "dense"


def federation(**values) -> Federation:
    given = {
        "dataset": toy_dataset(20),
        "shards": [torch.arange(0, 8), torch.arange(8, 18)],
        "malicious": frozenset({1}),
        "attack": Shift(),
        "seed": 0,
        "server_rows": torch.tensor([18, 19]),
    }
    return Federation(**{**given, **values})


def test_honest_clients_share_one_tensor_and_others_do_not():
    made = federation()
    one, _, rows = made.indexed(0, attacking=True)
    two, _, own = made.indexed(1, attacking=False)
    assert one.data_ptr() == two.data_ptr()
    assert rows.tolist() == list(range(8))
    assert own.tolist() == list(range(8, 18))
    poisoned, labels, none = made.indexed(1, attacking=True)
    assert none is None
    assert (len(poisoned), set(labels.tolist())) == (10, {0})


def test_rows_that_are_left_out_are_gone_and_can_come_back():
    trainer = ClientTrainer(nn.Linear(6, 3), federation(attack=Attack()), SETTINGS, 0)
    whole = trainer.examples(0)[0]
    trainer.left_out[0] = torch.tensor([0, 3])
    assert torch.equal(trainer.examples(0)[0], whole[[1, 2, 4, 5, 6, 7]])
    assert torch.equal(trainer.federation.shard(0, attacking=False)[0], whole)
    x, _, rows = trainer.data_of(0, attacking=False)
    assert (len(x), rows) == (6, None)
    trainer.left_out[0] = torch.tensor([7])
    assert torch.equal(trainer.examples(0)[0], whole[:7])
    trainer.left_out[0] = torch.tensor([], dtype=torch.long)
    assert torch.equal(trainer.examples(0)[0], whole)


def test_integers_are_not_normalised():
    made = federation(dataset=text_dataset(20), attack=Attack())
    x, _ = made.shard(0, attacking=False)
    assert x.dtype == torch.int64
    assert torch.equal(x, made.dataset.x_train[:8])
    assert made.class_counts().tolist() == [[8], [10]]


def test_the_servers_examples_are_its_rows():
    x, y = federation().server_examples()
    data = toy_dataset(20)
    torch.testing.assert_close(x, data.x_train[[18, 19]])
    assert torch.equal(y, data.y_train[[18, 19]])
