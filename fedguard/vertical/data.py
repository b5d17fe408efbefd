"""Dividing features among parties: strips of images, columns of tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError


@dataclass(frozen=True)
class PartyView:
    """One party's features of all rows, normalised; rows keep their ids.

    Attributes
    ----------
    x_train : Tensor
        (N, ...) features of the training rows, row i belonging to id i.
    x_test : Tensor
        (M, ...) features of the test rows.
    """

    x_train: Tensor
    x_test: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the party's part of one example."""
        return tuple(self.x_train.shape[1:])


def strip_widths(width: int, parties: int) -> list[int]:
    """Return the widths of vertical strips: equal, the first ``width % P`` one pixel wider."""
    return [width // parties + (place < width % parties) for place in range(parties)]


def column_owners(columns: int, parties: int, seed: int) -> list[int]:
    """Return which party holds each original column of a table.

    flwr-datasets' `VerticalEvenPartitioner` deals the columns out, shuffled by the seed.
    """
    from datasets import Dataset as HfDataset
    from flwr_datasets.partitioner import VerticalEvenPartitioner

    names = [str(place) for place in range(columns)]
    partitioner = VerticalEvenPartitioner(parties, shuffle=True, seed=seed % 2**32)
    partitioner.dataset = HfDataset.from_dict({name: [0] for name in names})
    owners = [0] * columns
    for party in range(parties):
        for name in partitioner.load_partition(party).column_names:
            owners[int(name)] = party
    return owners


def divide(
    dataset: Dataset, parties: int, seed: int, groups: Sequence[int] = ()
) -> list[PartyView]:
    """Return each party's view of a data set.

    Images are cut into vertical strips, left to right. Tables are divided by original column:
    the indicators of one category column stay together.

    Parameters
    ----------
    dataset : Dataset
        Images or a table.
    parties : int
        Number of parties P, at most one per pixel column or table column.
    seed : int
        Seed of the run; decides who holds which table column.
    groups : sequence of int
        Original column of each feature of a table; every feature its own if empty.
    """
    shape = (1, -1, *[1] * (len(dataset.input_shape) - 1))
    mean, std = (torch.tensor(v).view(shape) for v in (dataset.mean, dataset.std))
    x_train, x_test = ((x - mean) / std for x in (dataset.x_train, dataset.x_test))
    if dataset.is_image:
        _check_parties(parties, dataset.input_shape[2], "pixel columns")
        widths = strip_widths(dataset.input_shape[2], parties)
        pieces = zip(torch.split(x_train, widths, 3), torch.split(x_test, widths, 3), strict=True)
        return [PartyView(a.contiguous(), b.contiguous()) for a, b in pieces]
    known = list(groups) or list(range(dataset.input_shape[0]))
    _check_parties(parties, max(known) + 1, "columns")
    owners = column_owners(max(known) + 1, parties, seed)
    mine = [[f for f, group in enumerate(known) if owners[group] == p] for p in range(parties)]
    return [PartyView(x_train[:, features], x_test[:, features]) for features in mine]


def _check_parties(parties: int, most: int, what: str) -> None:
    if not 2 <= parties <= most:
        raise ConfigurationError(
            "clients", parties, f"2 to {most} parties; there are {most} {what}"
        )
