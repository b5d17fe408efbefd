"""A small made-up log of clicks, which needs no file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedguard.data.clicks import RECOMMENDER_DEFAULTS
from fedguard.data.dataset import Dataset
from fedguard.data.histories import Sessions, as_dataset
from fedguard.errors import check_number

_KINDS = 6


class ClicksSample:
    """Made-up histories for trying things out: no real users, the same in every run.

    Items belong to 6 kinds in a ring. A user stays within a kind with probability 0.7 and else
    goes on to the next one; within a kind, items are drawn by popularity, ``p ~ 1 / rank^0.8``,
    without those that the user has met. So there is something to learn (the kind) and much that
    nobody can know (which item of it).

    Parameters
    ----------
    users, items : int
        How many, at least 20 and at least 60.
    shops : int
        Number of shops that users are dealt to, at least 1.
    length : int
        Items of a history that a model sees, at least 3; histories have 8 to 20 items.
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        **RECOMMENDER_DEFAULTS,
        "clients": 10,
        "malicious": 0.1,
    }

    def __init__(
        self, *, users: int = 200, items: int = 180, shops: int = 10, length: int = 20
    ) -> None:
        check_number("users", users, at_least=20)
        check_number("items", items, at_least=60)
        check_number("shops", shops, at_least=1)
        check_number("length", length, at_least=3)
        self.users, self.items, self.shops, self.length = users, items, shops, length

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the data set; `data_dir` is not used."""
        draw = np.random.default_rng(20)
        kind = np.arange(self.items) % _KINDS
        weight = 1.0 / (np.arange(self.items) // _KINDS + 1.0) ** 0.8
        histories = []
        for _ in range(self.users):
            met, now = np.zeros(self.items, dtype=bool), int(draw.integers(_KINDS))
            own = []
            for _ in range(int(draw.integers(8, 21))):
                now = now if draw.random() < 0.7 else (now + 1) % _KINDS
                chances = weight * (kind == now) * ~met
                if chances.sum() == 0.0:
                    now = (now + 1) % _KINDS
                    chances = weight * (kind == now) * ~met
                taken = int(draw.choice(self.items, p=chances / chances.sum()))
                met[taken] = True
                own.append(taken + 1)
            histories.append(np.array(own, dtype=np.int64))
        names = tuple(f"item-{number + 1:03d}" for number in range(self.items))
        sessions = Sessions(
            items=histories,
            ids=("", *(str(number + 1) for number in range(self.items))),
            titles=("none", *names),
            groups={"user": np.array([f"user {u:04d}" for u in range(self.users)], dtype=np.str_)},
            notes=("made-up histories from a seeded generator, not of real users",),
        )
        return as_dataset("clicks-sample", sessions, self.length, self.shops)
