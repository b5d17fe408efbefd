from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedguard import registry
from fedguard.data.partitions import (
    Dirichlet,
    Iid,
    LabelQuantity,
    Noise,
    Partition,
    Prob,
    Quantity,
    Shards,
    Split,
    base,
)
from fedguard.data.partitions.base import robust_dirichlet
from fedguard.errors import ConfigurationError
from fedguard.randomness import SERVER, numpy_generator

CLASSES = 10


def make_labels(rows: int, classes: int = CLASSES, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randint(0, classes, (rows,), generator=stream)


def label_counts(split: Split, labels: Tensor, classes: int = CLASSES) -> np.ndarray:
    return np.stack([labels[rows].bincount(minlength=classes).numpy() for rows in split.indices])


def check_split(split: Split, rows: int, clients: int) -> Tensor:
    """Demand what every split promises; return all its rows."""
    assert len(split.indices) == clients
    assert all(len(part) > 0 and part.dtype == torch.int64 for part in split.indices)
    assert all((part.diff() > 0).all() for part in split.indices)
    everything = torch.cat(list(split.indices))
    assert everything.min() >= 0
    assert everything.max() < rows
    assert len(everything.unique()) == len(everything), "two clients share a row"
    return everything


COVERING: list[Partition] = [
    Iid(),
    Dirichlet(alpha=0.5, min_samples=1),
    Dirichlet(alpha=5.0, min_samples=2),
    Prob(q=0.5),
    Prob(q=0.0),
    Prob(q=1.0),
    Quantity(alpha=2.0, min_samples=1),
    Noise(sigma=0.3),
]
EVERY: list[Partition] = [*COVERING, LabelQuantity(2), Shards(2)]


REFUSED = {
    "clients",
    "partition.min_samples",
    "partition.labels_per_client",
    "partition.shards_per_client",
}


def name_of(part: Partition) -> str:
    return f"{type(part).__name__}{vars(part)}"


@pytest.mark.parametrize("part", EVERY, ids=name_of)
@given(
    rows=st.integers(1, 400),
    clients=st.integers(1, 40),
    classes=st.integers(1, 12),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_every_split_is_disjoint_and_leaves_no_client_empty(
    part: Partition, rows: int, clients: int, classes: int, seed: int
) -> None:
    labels = make_labels(rows, classes, seed)
    try:
        split = part.split(labels, classes, clients, seed)
    except ConfigurationError as refusal:
        field = refusal.field
        split = None
    if split is None:
        assert field in REFUSED
        return
    everything = check_split(split, rows, clients)
    if part in COVERING:
        assert len(everything) == rows


@pytest.mark.parametrize("part", EVERY, ids=name_of)
def test_plenty_of_rows_is_never_refused(part: Partition) -> None:
    labels = make_labels(5000)
    for clients in (1, 2, 7, 20):
        everything = check_split(part.split(labels, CLASSES, clients, 3), 5000, clients)
        if part in COVERING:
            assert len(everything) == 5000


@pytest.mark.parametrize("part", EVERY, ids=name_of)
def test_the_seed_alone_decides(part: Partition) -> None:
    labels = make_labels(2000)
    first = part.split(labels, CLASSES, 12, seed=1)
    np.random.seed(99)
    torch.manual_seed(99)
    random.seed(99)
    before = (np.random.get_state()[1].tolist(), torch.get_rng_state(), random.getstate())
    again = part.split(labels, CLASSES, 12, seed=1)
    after = (np.random.get_state()[1].tolist(), torch.get_rng_state(), random.getstate())
    other = part.split(labels, CLASSES, 12, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.indices, again.indices, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.indices, other.indices, strict=True))
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    assert before[2] == after[2]


@pytest.mark.parametrize("part", [Iid(), Noise()], ids=name_of)
def test_iid_sizes_differ_by_at_most_one(part: Partition) -> None:
    sizes = [len(rows) for rows in part.split(make_labels(1003), CLASSES, 10, 0).indices]
    assert sorted(sizes, reverse=True) == sizes
    assert set(sizes) == {100, 101}


def test_iid_mixes_the_order_of_the_data() -> None:
    labels = torch.arange(CLASSES).repeat_interleave(500)
    counts = label_counts(Iid().split(labels, CLASSES, 10, 0), labels)
    # Hypergeometric with mean 50 and standard deviation 6.4: seven of them stay within 45.
    assert np.abs(counts - 50).max() < 45


def test_noise_rises_from_none_to_sigma() -> None:
    split = Noise(sigma=0.4).split(make_labels(100), CLASSES, 5, 0)
    assert split.noise_std == pytest.approx((0.0, 0.1, 0.2, 0.3, 0.4))
    assert Noise(sigma=0.4).split(make_labels(100), CLASSES, 1, 0).noise_std == (0.0,)
    assert Iid().split(make_labels(100), CLASSES, 5, 0).noise_std is None


@given(per_client=st.integers(1, CLASSES), clients=st.integers(1, 60), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_label_quantity_gives_exactly_so_many_labels(
    per_client: int, clients: int, seed: int
) -> None:
    labels = torch.arange(CLASSES).repeat(120)
    counts = label_counts(LabelQuantity(per_client).split(labels, CLASSES, clients, seed), labels)
    assert ((counts > 0).sum(axis=1) == per_client).all()
    assert all(counts[client, client % CLASSES] > 0 for client in range(clients))
    for column in counts.T:
        held = column[column > 0]
        if len(held):
            assert held.sum() == 120
            assert held.max() - held.min() <= 1


@pytest.mark.parametrize("q", [0.1, 0.3, 0.8, 1.0])
def test_prob_sends_each_class_to_its_group_with_probability_q(q: float) -> None:
    labels = torch.arange(CLASSES).repeat(2000)
    counts = label_counts(Prob(q).split(labels, CLASSES, 30, 0), labels)
    groups = np.stack([counts[group::CLASSES].sum(axis=0) for group in range(CLASSES)])
    # Five standard deviations of the widest binomial proportion here.
    assert np.abs(np.diag(groups) / 2000 - q).max() < 5 * 0.5 / 2000**0.5
    others = groups[~np.eye(CLASSES, dtype=bool)] / 2000
    assert np.abs(others - (1 - q) / 9).max() < 5 * 0.5 / 2000**0.5


def test_prob_with_fewer_clients_than_classes_shares_groups() -> None:
    labels = torch.arange(CLASSES).repeat(50)
    counts = label_counts(Prob(1.0).split(labels, CLASSES, 4, 0), labels)
    assert all((counts[i] > 0).tolist() == [c % 4 == i for c in range(CLASSES)] for i in range(4))


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_hold_few_classes_and_equal_sizes(shards: int) -> None:
    labels = torch.arange(CLASSES).repeat(200)[torch.randperm(2000)]
    split = Shards(shards).split(labels, CLASSES, 20, 0)
    counts = label_counts(split, labels)
    assert (counts.sum(axis=1) == 100).all()
    # 2000 rows in 20 * shards pieces: a piece of 100 / shards rows lies within one class of 200.
    assert ((counts > 0).sum(axis=1) <= shards).all()


def test_shards_leave_out_less_than_one_row_per_shard() -> None:
    split = Shards(2).split(make_labels(1999), CLASSES, 20, 0)
    assert sum(len(rows) for rows in split.indices) == 1960


def test_a_smaller_alpha_concentrates_labels_and_sizes() -> None:
    labels = make_labels(20_000)

    def largest_share(alpha: float) -> float:
        counts = label_counts(Dirichlet(alpha, 1).split(labels, CLASSES, 10, 0), labels)
        return float((counts.max(axis=1) / counts.sum(axis=1)).mean())

    assert largest_share(0.1) > 0.4 > 0.2 > largest_share(100.0)

    def spread(alpha: float) -> float:
        sizes = [len(rows) for rows in Quantity(alpha, 1).split(labels, 10, 10, 0).indices]
        return float(np.std(sizes) / np.mean(sizes))

    assert spread(0.3) > 0.5 > 0.15 > spread(100.0)


def test_quantity_keeps_the_label_mix() -> None:
    labels = torch.arange(CLASSES).repeat(2000)
    counts = label_counts(Quantity(1.0, 500).split(labels, CLASSES, 8, 0), labels)
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert np.abs(shares - 0.1).max() < 5 * 0.3 / 500**0.5


@pytest.mark.parametrize("alpha", [1e-3, 0.01, 0.05])
def test_a_tiny_alpha_neither_fails_nor_loses_rows(alpha: float) -> None:
    labels = make_labels(3000)
    everything = check_split(Dirichlet(alpha, 1).split(labels, CLASSES, 3, 0), 3000, 3)
    assert len(everything) == 3000


@pytest.mark.parametrize("alpha", [1e-300, 1e-3])
def test_proportions_that_underflow_still_add_up(alpha: float) -> None:
    stream = np.random.default_rng(0)
    for size in (1, 2, 50):
        shares = robust_dirichlet(alpha, size, stream)
        assert shares.sum() == pytest.approx(1.0)
        assert (shares >= 0).all()


# --- flwr-datasets as an independent judge ---------------------------------------------------


def flower_counts(partitioner: object, labels: Tensor, clients: int) -> np.ndarray:
    from datasets import Dataset as Rows

    rows = Rows.from_dict({"label": labels.tolist(), "row": list(range(len(labels)))})
    partitioner.dataset = rows  # type: ignore[attr-defined]
    found = [partitioner.load_partition(i)["row"][:] for i in range(clients)]  # type: ignore[attr-defined]
    return np.stack([labels[part].bincount(minlength=CLASSES).numpy() for part in found])


@pytest.mark.parametrize(("alpha", "clients"), [(0.5, 10), (0.2, 30), (10.0, 7)])
def test_dirichlet_counts_agree_with_flower_datasets(
    alpha: float, clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flwr_datasets.partitioner import DirichletPartitioner

    labels = make_labels(3000)
    theirs = DirichletPartitioner(
        clients, "label", alpha, min_partition_size=1, self_balancing=True, shuffle=False, seed=5
    )
    monkeypatch.setattr(base, "numpy_generator", lambda *_: np.random.default_rng(5))
    ours = Dirichlet(alpha, 1).split(labels, CLASSES, clients, 5)
    differ = np.abs(label_counts(ours, labels) - flower_counts(theirs, labels, clients))
    # Theirs rounds down a sum of shares that should be 1, so that one row of a class may go to
    # the last client although its share is 0.
    assert differ.max() <= 1
    assert (differ.sum(axis=0) <= 2).all()


def test_a_share_of_zero_gets_no_row() -> None:
    labels = make_labels(3000)
    for seed in range(20):
        counts = label_counts(Dirichlet(0.2, 1).split(labels, CLASSES, 30, seed), labels)
        already = counts.cumsum(axis=1) - counts
        assert (counts[already > 3000 / 30] == 0).all()


def test_shard_counts_equal_flower_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr_datasets.partitioner import ShardPartitioner

    class SecondStream:
        """Leaves the rows in order, so that both deal the same shards from one stream."""

        def __init__(self) -> None:
            self.stream, self.calls = np.random.default_rng(5), 0

        def permutation(self, count: int) -> np.ndarray:
            self.calls += 1
            return np.arange(count) if self.calls == 1 else self.stream.permutation(count)

    labels = make_labels(2000)
    theirs = ShardPartitioner(20, "label", num_shards_per_partition=2, shuffle=False, seed=5)
    monkeypatch.setattr(base, "numpy_generator", lambda *_: SecondStream())
    ours = Shards(2).split(labels, CLASSES, 20, 5)
    expected = flower_counts(theirs, labels, 20)
    assert np.array_equal(label_counts(ours, labels), expected)


def test_label_quantity_divides_a_class_as_flower_datasets_does() -> None:
    from flwr_datasets.partitioner import PathologicalPartitioner

    labels = make_labels(3000)
    theirs = PathologicalPartitioner(
        10, "label", num_classes_per_partition=CLASSES, class_assignment_mode="first-deterministic"
    )
    ours = LabelQuantity(CLASSES).split(labels, CLASSES, 10, 0)
    assert np.array_equal(label_counts(ours, labels), flower_counts(theirs, labels, 10))


def test_iid_sizes_equal_flower_datasets() -> None:
    from flwr_datasets.partitioner import IidPartitioner

    labels = make_labels(1003)
    expected = flower_counts(IidPartitioner(10), labels, 10).sum(axis=1)
    assert [len(rows) for rows in Iid().split(labels, 10, 10, 0).indices] == expected.tolist()


# --- what cannot be done ends in one clear line, soon ------------------------------------------


def test_ten_thousand_clients_get_every_row_once() -> None:
    labels = make_labels(60_000)
    for part in (Iid(), Prob(0.5), LabelQuantity(2), Shards(2), Dirichlet(10.0, 1), Noise()):
        everything = check_split(part.split(labels, CLASSES, 10_000, 0), 60_000, 10_000)
        assert len(everything) == 60_000


@pytest.mark.parametrize(
    ("part", "rows", "clients", "field", "says"),
    [
        (Iid(), 5, 6, "clients", "at most 5"),
        (Dirichlet(), 60_000, 10_000, "partition.min_samples", "at most 6"),
        (Dirichlet(0.01, 10), 60_000, 100, "partition.min_samples", "alpha"),
        (Dirichlet(0.5, 10), 1000, 80, "partition.min_samples", "the best of"),
        (Quantity(), 1000, 200, "partition.min_samples", "at most 5"),
        (Quantity(0.1, 5), 1000, 100, "partition.min_samples", "alpha"),
        (LabelQuantity(11), 1000, 10, "partition.labels_per_client", "at most 10"),
        (LabelQuantity(9), 100, 50, "clients", "fewer"),
        (Shards(3), 100, 50, "partition.shards_per_client", "at most 2"),
        (Prob(1.0), 100, 99, "clients", "fewer"),
    ],
    ids=lambda value: None if isinstance(value, int | str) else name_of(value),
)
def test_too_many_clients_end_in_one_line(
    part: Partition, rows: int, clients: int, field: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        part.split(make_labels(rows), CLASSES, clients, 0)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_the_best_draw_that_an_error_names_works() -> None:
    labels = make_labels(1000)
    with pytest.raises(ConfigurationError) as caught:
        Dirichlet(0.5, 10).split(labels, CLASSES, 80, 0)
    best = int(caught.value.allowed.removeprefix("at most ").split()[0])
    assert 1 <= best < 10
    smallest = min(len(r) for r in Dirichlet(0.5, best).split(labels, CLASSES, 80, 0).indices)
    assert smallest == best


@pytest.mark.parametrize("clients", [0, -1, 2.5, True])
def test_the_number_of_clients_is_a_whole_number(clients: int) -> None:
    with pytest.raises(ConfigurationError, match="clients"):
        Iid().split(make_labels(100), CLASSES, clients, 0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dirichlet", {"alpha": 0.0}),
        ("dirichlet", {"alpha": float("nan")}),
        ("dirichlet", {"min_samples": 0}),
        ("prob", {"q": 1.1}),
        ("prob", {"q": -0.1}),
        ("label-quantity", {"labels_per_client": 0}),
        ("quantity", {"alpha": -1.0}),
        ("noise", {"sigma": -0.1}),
        ("noise", {"sigma": float("inf")}),
        ("shards", {"shards_per_client": 0}),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, float]) -> None:
    (option,) = options
    with pytest.raises(ConfigurationError) as caught:
        registry.create("partition", name, **options)
    assert caught.value.field == f"partition.{option}"


def test_the_stream_is_the_runs_own() -> None:
    labels = make_labels(50)
    expected = numpy_generator(7, 0, SERVER, "partition").permutation(np.arange(50))[:10]
    assert Iid().split(labels, CLASSES, 5, 7).indices[0].tolist() == sorted(expected.tolist())


def test_the_rows_of_all_clients_are_views_of_one_tensor():
    divided = base.Divided(torch.tensor([0, 3, 1, 2, 4]), np.array([0, 2, 3, 5]))
    assert [part.tolist() for part in divided] == [[0, 3], [1], [2, 4]]
    assert divided[-1].tolist() == [2, 4]
    assert [part.tolist() for part in divided[1:]] == [[1], [2, 4]]
    assert all(part.data_ptr() >= divided.rows.data_ptr() for part in divided)
    assert [p.tolist() for p in divided.among(torch.tensor([9, 8, 7, 6, 5]))] == [
        [9, 6],
        [8],
        [7, 5],
    ]
    for beyond in (3, -4):
        with pytest.raises(IndexError, match="of 3"):
            divided[beyond]


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 99))
def test_rows_go_to_their_owners_in_ascending_order(rows: int, clients: int, seed: int):
    stream = np.random.default_rng(seed)
    shuffled, owners = stream.permutation(rows), stream.integers(0, clients, rows)
    divided = base.split_by_owner(shuffled, owners, clients)
    assert len(divided) == clients
    for client, part in enumerate(divided):
        assert part.tolist() == sorted(shuffled[owners == client].tolist())


@pytest.mark.parametrize(("short", "draws"), [(1000, 10), (999, 1000)])
def test_a_split_that_leaves_very_many_clients_short_is_not_drawn_a_thousand_times(
    short: int, draws: int
):
    drawn = []

    def draw() -> np.ndarray:
        drawn.append(1)
        return np.repeat([[0, 3]], [short, 2000 - short], axis=1)

    with pytest.raises(ConfigurationError):
        base.draw_until(draw, 6000, 2000, 1)
    assert len(drawn) == draws
