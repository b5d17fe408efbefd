"""Repeat target: fake users who take the target alone, over and over."""

from __future__ import annotations

from typing import Any

import torch

from fedguard.attacks.toolkit.fake_users import FakeUsers


class RepeatTarget(FakeUsers):
    """A fake history is the target `length` times; the crudest promotion, easily seen.

    For the arguments see `FakeUsers`; ``every`` has no meaning here.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.repeat_target import RepeatTarget
    >>> attack = RepeatTarget(length=4)
    >>> attack.target_class = 9  # what `meet` finds by a title
    >>> attack.invented(1, torch.Generator())
    [[9, 9, 9, 9]]
    """

    def __init__(self, **frame: Any) -> None:
        super().__init__(**frame)

    def invented(self, count: int, rng: torch.Generator) -> list[list[int]]:
        """Return `count` times the same history."""
        return [[self.target] * self.length for _ in range(count)]
