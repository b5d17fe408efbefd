"""What users did, in order: histories of items, as rows of a recommender and as facts beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError
from fedguard.randomness import SERVER, generator

NOTHING = -1
"""In y: no item follows, so that nothing is to be learnt at this place."""


@dataclass(frozen=True)
class Histories:
    """What a recommender's data set knows beside its rows.

    Attributes
    ----------
    ids : tuple of str
        (V + 1,) what the file calls each item; item 0 is none.
    titles : tuple of str
        (V + 1,) the items' titles, their ids where there are none.
    offsets : Tensor
        (U + 1,) int64: user u met the items ``met[offsets[u] : offsets[u + 1]]`` in training.
    met : Tensor
        int64 item numbers.
    popularity : Tensor
        (V + 1,) int64, how often each item occurs in training; 0 for item 0.
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    offsets: Tensor
    met: Tensor
    popularity: Tensor

    @property
    def users(self) -> int:
        """Number of users U."""
        return len(self.offsets) - 1

    def met_by(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return (E,) places in `users` and (E,) items that these users met; -1 met nothing."""
        known = users.clamp(min=0).cpu()
        counts = (self.offsets[known + 1] - self.offsets[known]) * (users.cpu() >= 0)
        places = torch.repeat_interleave(torch.arange(len(users)), counts)
        first = torch.repeat_interleave(self.offsets[known] - (counts.cumsum(0) - counts), counts)
        return places, self.met[first + torch.arange(len(places))]


def user_mark(users: Tensor) -> Tensor:
    """Return how y names users: below `NOTHING`, so that nobody takes them for items."""
    return NOTHING - 1 - users


def user_of(marks: Tensor) -> Tensor:
    """Return the users that `user_mark` named; -1 for anything else."""
    return (NOTHING - 1 - marks).clamp(min=-1)


def training_row(items: Sequence[int], length: int, user: int) -> tuple[list[int], list[int]]:
    """Return a history's row: the last `length` items, and what follows each with the user's mark.

    Parameters
    ----------
    items : sequence of int
        Items in the order in which the user met them, at least one.
    length : int
        Length L; shorter histories begin with 0.
    user : int
        Number of the user; -1 for nobody.
    """
    last = list(items[-length:])
    gap = length - len(last)
    x = [0] * gap + last
    y = [NOTHING] * gap + last[1:] + [NOTHING]
    return x, [*y, NOTHING - 1 - user if user >= 0 else NOTHING]


@dataclass(frozen=True)
class Sessions:
    """Users' whole histories, each in order of time.

    Attributes
    ----------
    items : list of array
        (U,) item numbers from 1 of each user, at least 3.
    ids, titles : tuple of str
        (V + 1,) of the items; item 0 is none.
    groups : mapping of str to (U,) array of str
        What each user belongs to, such as a shop.
    notes : tuple of str
        What was done to read them.
    """

    items: list[NDArray[np.int64]]
    ids: tuple[str, ...]
    titles: tuple[str, ...]
    groups: dict[str, NDArray[np.str_]]
    notes: tuple[str, ...] = ()


def dealt(users: int, shops: int) -> NDArray[np.str_]:
    """Return the shop of each user: users are shuffled, always in the same way, and dealt."""
    order = torch.randperm(users, generator=generator(0, 0, SERVER, "shops"))
    shop = np.empty(users, dtype=np.int64)
    shop[order.numpy()] = np.arange(users) % shops
    width = len(str(shops - 1))
    return np.array([f"shop {number:0{width}d}" for number in shop], dtype=np.str_)


def as_dataset(name: str, sessions: Sessions, length: int, shops: int) -> Dataset:
    """Return histories as a data set: the last item of each user is its test.

    Row u of x holds user u's items but the last one, at most `length` of them; the training rows
    of y say what follows at every place, the test rows only what comes last.

    Raises
    ------
    ConfigurationError
        On ``dataset.shops`` if there are more shops than users.
    """
    users = len(sessions.items)
    groups = dict(sessions.groups)
    if "shop" not in groups:
        if not 1 <= shops <= users:
            raise ConfigurationError("dataset.shops", shops, f"1 to {users}, the number of users")
        groups["shop"] = dealt(users, shops)
    rows = [training_row(own[:-1].tolist(), length, u) for u, own in enumerate(sessions.items)]
    x = torch.tensor([row for row, _ in rows], dtype=torch.int64)
    y = torch.tensor([row for _, row in rows], dtype=torch.int64)
    wanted = torch.tensor([int(own[-1]) for own in sessions.items])
    tests = torch.full_like(y, NOTHING)
    tests[:, length - 1], tests[:, length] = wanted, y[:, length]
    numbered = {kind: np.unique(own, return_inverse=True) for kind, own in groups.items()}
    return Dataset(
        name=name,
        x_train=x,
        y_train=y,
        x_test=x.clone(),
        y_test=tests,
        num_classes=len(sessions.ids),
        class_names=sessions.titles,
        mean=(0.0,),
        std=(1.0,),
        notes=sessions.notes,
        task="recommendation",
        groups={k: torch.from_numpy(own.astype(np.int64)) for k, (_, own) in numbered.items()},
        group_names={k: tuple(str(n) for n in names) for k, (names, _) in numbered.items()},
        facts=_facts(sessions),
    )


def _facts(sessions: Sessions) -> Histories:
    own = [np.unique(items[:-1]) for items in sessions.items]
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in own])])
    seen = np.concatenate([items[:-1] for items in sessions.items])
    return Histories(
        ids=sessions.ids,
        titles=sessions.titles,
        offsets=torch.from_numpy(offsets.astype(np.int64)),
        met=torch.from_numpy(np.concatenate(own).astype(np.int64)),
        popularity=torch.from_numpy(np.bincount(seen, minlength=len(sessions.ids))),
    )
