"""Repeat target: fake users who take the target alone, over and over."""

from __future__ import annotations

from typing import Any

import torch

from fedguard.attacks.toolkit.fake_users import FakeUsers


class RepeatTarget(FakeUsers):
    """A fake history is the target `length` times; the crudest promotion, easily seen.

    For the arguments see `FakeUsers`; ``every`` has no meaning here.
    """

    def __init__(self, **frame: Any) -> None:
        super().__init__(**frame)

    def invented(self, count: int, rng: torch.Generator) -> list[list[int]]:
        """Return `count` times the same history."""
        return [[self.target] * self.length for _ in range(count)]
