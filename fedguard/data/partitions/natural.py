"""The split that the data come with: by hospital, site, writer or speaker."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.data.partitions.base import Split
from fedguard.errors import ConfigurationError, nearest

_SHOWN = 8


class Natural:
    """Each client holds the rows of one group of the data set, such as a hospital or a writer.

    Client i holds the i-th group, in the order of the groups' numbers; nothing is drawn. There
    are as many clients as groups. The data set says which groups it knows: a table any column, an
    image folder its folder levels, a data set of users its users.

    Parameters
    ----------
    by : str, optional
        What the groups are: a table's column, an image folder's level. The one kind of group that
        the data set has if left out.
    """

    needs_groups: ClassVar[bool] = True
    """The core hands the data set itself to `split_dataset`, in place of the labels to `split`."""

    def __init__(self, by: str | None = None) -> None:
        self.by = by

    def split(self, labels: Tensor, num_classes: int, num_clients: int, seed: int) -> Split:
        """Refuse: labels alone do not tell whose rows they are; see `split_dataset`."""
        allowed = "a data set with groups; labels alone do not say whose rows they are"
        raise ConfigurationError("partition", "natural", allowed)

    def split_dataset(self, dataset: Dataset, rows: Tensor, num_clients: int, seed: int) -> Split:
        """Divide training rows by their group.

        Parameters
        ----------
        dataset : Dataset
            The data set, with `groups`.
        rows : Tensor
            (N,) training rows to divide, ascending; the server holds the others.
        num_clients : int
            Number of clients K, the number of groups.
        seed : int
            Not used.

        Returns
        -------
        Split
            Positions in `rows`, one tensor per group.

        Raises
        ------
        ConfigurationError
            On ``partition.by`` if the data set has no such groups (names the nearest), on
            ``clients`` if there are not as many clients as groups, or a group has no rows left.
        """
        name = self._kind(dataset)
        members = (dataset.groups or {})[name][rows]
        names = (dataset.group_names or {})[name]
        if num_clients != len(names):
            some = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            allowed = f"{len(names)}, one for each {name} in the training rows ({some})"
            raise ConfigurationError("clients", num_clients, allowed)
        parts = tuple((members == group).nonzero().flatten() for group in range(len(names)))
        empty = [names[group] for group, part in enumerate(parts) if not len(part)]
        if empty:
            allowed = f"fewer; the server took every row of {name} {empty[0]}"
            raise ConfigurationError("server_samples", len(dataset.x_train) - len(rows), allowed)
        return Split(parts, groups=tuple(names))

    def _kind(self, dataset: Dataset) -> str:
        known = list(dataset.groups or {})
        if self.by is None and len(known) == 1:
            return known[0]
        if self.by is None or self.by not in known:
            what = ", ".join(known) or f"nothing: data set {dataset.name} does not say whose rows"
            allowed = nearest(self.by or "", known) + what
            raise ConfigurationError("partition.by", self.by, allowed)
        return self.by
