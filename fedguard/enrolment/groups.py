"""Groups of k members who share their labels, and the labels that are valid now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fedguard.enrolment.tickets import KEY, label_of

Bytes = Callable[[int], bytes]
"""Returns so many secret bytes; `secrets.token_bytes`, or a keyed stream in a simulation."""

WINDOW = 2
"""Epochs whose labels are valid: this one and the one before."""

_BACK, _AHEAD = 4, 1
"""Epochs back and ahead in which a label is still told from one that never was."""


@dataclass(frozen=True)
class Credential:
    """What a member holds after it enrolled.

    Attributes
    ----------
    key : bytes
        32 bytes K_u, known to the member and the registrar alone.
    seed : bytes
        32 bytes s_g that its whole group shares.
    slots : int
        Labels of the group in an epoch.
    """

    key: bytes
    seed: bytes
    slots: int


@dataclass(frozen=True)
class Group:
    """Members who share their labels.

    Attributes
    ----------
    seed : bytes
        What its labels are made of.
    members : tuple of int
        Who belongs to it, revoked members included: they keep the search as long as it was.
    """

    seed: bytes
    members: tuple[int, ...]


def form_groups(members: Sequence[int], k: int, random: Bytes) -> list[Group]:
    """Return groups of k members each, drawn at random; a short last group joins the one before.

    Parameters
    ----------
    members : sequence of int
        At least k of them.
    k : int
        Size of a group.
    random : callable
        Secret bytes.
    """
    # Sorting by secret numbers shuffles: a member's place says nothing about its group.
    order = [member for _, member in sorted((random(KEY), member) for member in members)]
    count = max(len(order) // k, 1)
    cuts = [*range(0, count * k, k), len(order)]
    parts = [order[start:stop] for start, stop in pairwise(cuts)]
    return [Group(random(KEY), tuple(part)) for part in parts]


class LabelTable:
    """Finds the group of a label in the epochs that are valid.

    Parameters
    ----------
    groups : sequence of Group
        All groups.
    slots : int
        Labels of a group in an epoch.
    """

    def __init__(self, groups: Sequence[Group], slots: int) -> None:
        self.groups = tuple(groups)
        self.slots = slots
        self._tables: dict[int, dict[bytes, int]] = {}

    def find(self, label: bytes, epoch: int) -> int | None:
        """Return which group has a label in this epoch or the one before; None for none."""
        self._turn(epoch)
        valid = range(max(epoch - WINDOW + 1, 0), epoch + 1)
        return next((t[label] for t in map(self._table, valid) if label in t), None)

    def was_ever(self, label: bytes, epoch: int) -> bool:
        """Return whether it is a label of some epoch not far away."""
        self._turn(epoch)
        near = range(max(epoch - _BACK, 0), epoch + _AHEAD + 1)
        return any(label in self._table(each) for each in near)

    def _turn(self, epoch: int) -> None:
        for known in list(self._tables):
            if not epoch - _BACK <= known <= epoch + _AHEAD:
                del self._tables[known]

    def _table(self, epoch: int) -> dict[bytes, int]:
        if epoch not in self._tables:
            self._tables[epoch] = {
                label_of(group.seed, epoch, slot): index
                for index, group in enumerate(self.groups)
                for slot in range(self.slots)
            }
        return self._tables[epoch]
