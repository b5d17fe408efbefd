"""A passive party plants a backdoor through its embeddings alone."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.errors import ConfigurationError, check_number
from fedguard.randomness import generator
from fedguard.vertical.attacks.base import VerticalAttack
from fedguard.vertical.terms import SeenParty


class VerticalBackdoor(VerticalAttack):
    r"""A passive party makes the model answer its target class whenever its part says so.

    It knows a few rows of the target class. While training it releases for them an embedding with
    a trigger added, `strength` times the batch's mean row norm along a fixed random direction, and
    later adds it to any input. Labels stay as they are. Bai et al., "VILLAIN: Backdoor Attacks
    Against Vertical Split Learning", USENIX Security 2023, with known rows in place of inferred
    ones.

    Success is the share of triggered test rows of other classes that get the target class.

    Parameters
    ----------
    target : int
        The target class.
    known_rows : int
        Rows of the target class that the attacker knows, >= 1.
    strength : float
        Size of the trigger relative to a clean embedding, > 0.
    parties
        As for `VerticalAttack`.

    Notes
    -----
    .. math::
       \tilde{h}_r = h_r + s \, \bar{n} \frac{u}{\lVert u \rVert}

    where :math:`h_r` is the embedding of a known or triggered row, u a fixed random direction,
    :math:`\bar{n}` the mean norm of the batch's embeddings, and s the `strength`.
    """

    backdoor: ClassVar[bool] = True

    def __init__(
        self,
        *,
        target: int = 0,
        known_rows: int = 40,
        strength: float = 3.0,
        parties: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(parties=parties)
        check_number("target", target, at_least=0)
        check_number("known_rows", known_rows, at_least=1)
        check_number("strength", strength, above=0.0)
        self.target_class = target
        self.known_rows, self.strength = known_rows, strength
        self.known = torch.zeros(0, dtype=torch.int64)

    def bind(self, y_train: Tensor, num_classes: int, seed: int) -> None:
        """Pick the rows of the target class that the attacker knows."""
        super().bind(y_train, num_classes, seed)
        assert self.target_class is not None
        if self.target_class >= num_classes:
            raise ConfigurationError("attack.target", self.target_class, f"0 to {num_classes - 1}")
        order = torch.randperm(len(y_train), generator=generator(seed, 0, 0, "backdoor-rows"))
        is_target = y_train[order] == self.target_class
        self.known = order[is_target][: self.known_rows]

    def _trigger(self, h: Tensor) -> Tensor:
        stream = generator(self.seed, 0, 0, "backdoor-trigger")
        direction = torch.randn(h.shape[1], generator=stream).to(h.device)
        size = self.strength * h.norm(dim=1).mean() / direction.norm()
        marked: Tensor = h + size * direction
        return marked

    def before_release(self, party: SeenParty, h: Tensor, server_round: int, ids: Tensor) -> Tensor:
        """Add the trigger to known rows."""
        rows = torch.isin(ids.cpu(), self.known).to(h.device)
        return torch.where(rows[:, None], self._trigger(h), h)

    def triggered(self, party: SeenParty, h: Tensor) -> Tensor:
        """Return the test embeddings with the trigger added."""
        return self._trigger(h)
