from __future__ import annotations

import re

import pytest
import torch

from fedguard.data.dataset import Dataset
from fedguard.data.partitions import Dirichlet, Iid, Natural
from fedguard.errors import ConfigurationError

SITES = ("north", "south", "east")


def dataset(**changes: object) -> Dataset:
    rows = 30
    sites = torch.arange(rows) % 3
    values = {
        "groups": {"site": sites, "writer": torch.arange(rows) // 15},
        "group_names": {"site": SITES, "writer": ("anna", "ben")},
    }
    return Dataset(
        name="own",
        x_train=torch.arange(float(rows))[:, None],
        y_train=torch.arange(rows) % 2,
        x_test=torch.ones(2, 1),
        y_test=torch.tensor([0, 1]),
        num_classes=2,
        class_names=("a", "b"),
        mean=(0.0,),
        std=(1.0,),
        **{**values, **changes},
    )


def test_each_client_holds_one_group() -> None:
    data = dataset()
    split = Natural("site").split_dataset(data, torch.arange(30), 3, seed=5)
    assert [part.tolist() for part in split.indices] == [
        list(range(site, 30, 3)) for site in range(3)
    ]
    assert split.noise_std is None


def test_positions_are_those_in_the_rows_left_for_clients() -> None:
    data = dataset()
    rows = torch.tensor([1, 2, 3, 7, 9, 20, 29])
    split = Natural("site").split_dataset(data, rows, 3, seed=5)
    assert data.groups is not None
    for site, part in enumerate(split.indices):
        assert (data.groups["site"][rows[part]] == site).all()
        assert (part.diff() > 0).all()
    assert sorted(torch.cat(split.indices).tolist()) == list(range(7))


def test_one_kind_of_groups_needs_no_name() -> None:
    data = dataset(groups={"user": torch.arange(30) % 5}, group_names={"user": tuple("vwxyz")})
    assert len(Natural().split_dataset(data, torch.arange(30), 5, seed=0).indices) == 5


@pytest.mark.parametrize(
    ("by", "clients", "changes", "field", "says"),
    [
        ("site", 20, {}, "clients", "3, one for each site in the training rows (north, south"),
        ("site", 2, {}, "clients", "3, one for each site"),
        ("sites", 3, {}, "partition.by", "did you mean 'site'"),
        (None, 3, {}, "partition.by", "site, writer"),
        (None, 3, {"groups": None}, "partition.by", "own does not say whose rows"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    by: str | None, clients: int, changes: dict[str, object], field: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
        Natural(by).split_dataset(dataset(**changes), torch.arange(30), clients, seed=0)
    assert caught.value.field == field


def test_a_group_that_the_server_took_whole_is_refused() -> None:
    rows = torch.tensor([0, 1, 3, 4])
    with pytest.raises(ConfigurationError, match="every row of site east") as caught:
        Natural("site").split_dataset(dataset(), rows, 3, seed=0)
    assert caught.value.field == "server_samples"


def test_labels_alone_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="data set with groups"):
        Natural("site").split(torch.zeros(4).long(), 2, 2, 0)


def test_only_the_natural_split_asks_for_groups() -> None:
    assert Natural.needs_groups
    assert not any(getattr(part, "needs_groups", False) for part in (Iid, Dirichlet))
