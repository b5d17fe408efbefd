from __future__ import annotations

import pytest
import torch

from fedguard.attacks import Attack
from fedguard.clients.federation import Federation, draw_malicious, hold_out_for_server
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError


class Poisoner(Attack):
    needs = frozenset({"data"})

    def poison(self, x, y, rng):
        return x + 1.0, torch.full_like(y, 3)


def dataset(rows: int = 40) -> Dataset:
    x = torch.arange(rows * 4, dtype=torch.float32).view(rows, 4)
    y = torch.arange(rows) % 4
    names = ("a", "b", "c", "d")
    return Dataset("toy", x, y, x, y, 4, names, (1.0, 2.0, 3.0, 4.0), (2.0, 2.0, 2.0, 2.0))


def federation(**values) -> Federation:
    arguments = {
        "dataset": dataset(),
        "shards": [torch.tensor([0, 1, 2]), torch.tensor([3, 4])],
        "malicious": frozenset({1}),
        "attack": Poisoner(),
        "seed": 0,
        "server_rows": torch.tensor([7, 9]),
    }
    return Federation(**{**arguments, **values})


def test_examples_are_the_shards_rows_normalised():
    x, y = federation().shard(0, attacking=True)
    raw = dataset().x_train[:3]
    torch.testing.assert_close(x, (raw - torch.tensor([1.0, 2.0, 3.0, 4.0])) / 2.0)
    assert y.tolist() == [0, 1, 2]


def test_only_malicious_clients_poison_and_only_while_they_attack():
    fed = federation()
    clean, labels = fed.shard(1, attacking=False)
    poisoned, wrong = fed.shard(1, attacking=True)
    torch.testing.assert_close(poisoned, clean + 0.5)
    assert wrong.tolist() == [3, 3]
    assert labels.tolist() == [3, 0]
    honest, _ = fed.shard(0, attacking=True)
    torch.testing.assert_close(honest, fed.shard(0, attacking=False)[0])


def test_poison_that_changes_is_made_anew():
    fed = federation()
    before = fed.shard(1, attacking=True)[0]
    assert fed.shard(1, attacking=True)[0] is before
    fed.forget_poisoned()
    assert fed.shard(1, attacking=True)[0] is not before


def test_the_coalitions_clean_examples_are_unscaled():
    x, y = federation().coalition_examples()
    torch.testing.assert_close(x, dataset().x_train[3:5])
    assert y.tolist() == [3, 0]
    assert len(federation(malicious=frozenset()).coalition_examples()[1]) == 0


def test_input_noise_is_each_clients_own_and_repeats():
    quiet = federation()
    loud, again = (federation(noise_std=(0.0, 5.0)) for _ in range(2))
    torch.testing.assert_close(
        loud.shard(0, attacking=False)[0], quiet.shard(0, attacking=False)[0]
    )
    noisy = loud.shard(1, attacking=False)[0]
    assert not torch.equal(noisy, quiet.shard(1, attacking=False)[0])
    assert torch.equal(noisy, again.shard(1, attacking=False)[0])


def test_class_counts():
    assert federation().class_counts().tolist() == [[1, 1, 1, 0], [1, 0, 0, 1]]


@pytest.mark.parametrize("samples", [0, 1, 4, 7, 12, 39])
def test_a_balanced_draw_of_the_servers_rows_is_balanced_and_in_no_shard(samples):
    labels = dataset().y_train
    held, rest = hold_out_for_server(labels, 4, samples, seed=3, balanced=True)
    assert len(held) == samples
    assert sorted([*held.tolist(), *rest.tolist()]) == list(range(40))
    counts = labels[held].bincount(minlength=4)
    assert int(counts.max() - counts.min()) <= 1


def test_rare_classes_keep_half_of_their_rows_while_others_can_give():
    labels = torch.tensor([0] * 30 + [1] * 3)
    for samples, wanted in ((10, [8, 2]), (17, [15, 2]), (20, [17, 3])):
        held, _ = hold_out_for_server(labels, 2, samples, seed=0, balanced=True)
        assert labels[held].bincount(minlength=2).tolist() == wanted


@pytest.mark.parametrize("samples", [-1, 40, 100])
def test_the_server_cannot_hold_everything(samples):
    with pytest.raises(ConfigurationError, match="server_samples"):
        hold_out_for_server(dataset().y_train, 4, samples, seed=0)


def test_malicious_clients_are_a_seeded_draw():
    assert len(draw_malicious(50, 0.2, 0)) == 10
    assert draw_malicious(50, 0.2, 0) == draw_malicious(50, 0.2, 0)
    assert draw_malicious(50, 0.2, 0) != draw_malicious(50, 0.2, 1)
    assert draw_malicious(50, 0.0, 0) == frozenset()
    everywhere = set().union(*(draw_malicious(20, 0.2, seed) for seed in range(60)))
    assert everywhere == set(range(20))


def test_a_clients_label_counts_follow_the_strata_of_another_task():
    data = dataset()
    table = torch.arange(40).view(8, 5)
    words = Dataset("text", table, table, table, table, 40, (), (0.0,), (1.0,), task="next-word")
    made = federation(dataset=words, attack=Attack(), server_rows=torch.tensor([7]))
    assert made.class_counts().tolist() == [[3], [2]]
    assert made.task.name == "next-word"
    assert federation(dataset=data).task.name == "classification"


def test_held_out_rows_depend_on_the_seed_alone():
    labels = dataset().y_train
    one, again, other = (hold_out_for_server(labels, 4, 8, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_the_servers_rows_are_a_plain_draw_unless_balance_is_asked_for():
    labels = torch.tensor([0] * 900 + [1] * 100)
    counts = [
        labels[hold_out_for_server(labels, 2, 100, seed=seed)[0]].bincount(minlength=2)[1]
        for seed in range(40)
    ]
    assert 8.0 < float(torch.stack(counts).double().mean()) < 12.0  # 10 expected, 50 if balanced
    held, rest = hold_out_for_server(labels, 2, 100, seed=0)
    assert sorted([*held.tolist(), *rest.tolist()]) == list(range(1000))


@pytest.mark.parametrize("balanced", [False, True])
def test_classes_that_the_server_lacks_are_a_seeded_draw_of_their_number(balanced):
    labels = torch.arange(400) % 10
    found = []
    for seed in range(6):
        held, rest = hold_out_for_server(labels, 10, 40, seed, balanced=balanced, share=0.5)
        found.append(tuple(labels[held].unique().tolist()))
        assert len(found[-1]) == 5
        assert len(held) == 40
        assert len(rest) == 360
    assert len(set(found)) > 1


def test_more_rows_than_the_servers_classes_have_are_refused():
    with pytest.raises(ConfigurationError, match="server_samples"):
        hold_out_for_server(torch.arange(40) % 4, 4, 21, seed=0, share=0.5)


def test_the_share_of_the_servers_labels_that_noise_makes_wrong_is_exact_and_lasts():
    own = torch.arange(20)
    clean = federation(server_rows=own).server_examples()[1]
    noisy = federation(server_rows=own, server_label_noise=0.3)
    wrong = noisy.server_examples()[1]
    assert int((wrong != clean).sum()) == 6
    assert torch.equal(wrong, noisy.server_examples()[1])
    assert int(wrong.max()) < 4
    assert int(wrong.min()) >= 0
