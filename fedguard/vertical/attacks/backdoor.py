"""A passive party plants a backdoor through its embeddings alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fedguard.errors import ConfigurationError, check_choice, check_number
from fedguard.randomness import generator
from fedguard.vertical.attacks.base import VerticalAttack

if TYPE_CHECKING:
    from fedguard.vertical.parties import Party


class VerticalBackdoor(VerticalAttack):
    """A passive party makes the model answer its target class whenever its part says so.

    It knows a few rows of the target class.

    - ``embedding``: for known rows it releases an embedding with a trigger added, `strength` times
      the batch's mean row norm along a fixed random direction, and adds it to any input later.
      Bai et al., "VILLAIN: Backdoor Attacks Against Vertical Split Learning", USENIX Security 2023,
      with known rows in place of inferred ones.
    - ``label-replacement``: it stamps a pattern on the features of as many other rows, releases
      noise for them so that the label holder learns nothing from them, and steps its bottom model
      on `strength` times the gradient that a known target row got instead of theirs. So the
      pattern comes to look like the target class. Liu et al., "Batch Label Inference and
      Replacement Attacks in Black-Boxed Vertical Federated Learning", arXiv 2021.

    Success is the share of triggered test rows of other classes that get the target class.

    Parameters
    ----------
    target : int
        The target class.
    known_rows : int
        Rows of the target class that the attacker knows, >= 1.
    strength : float
        Size of the trigger relative to a clean embedding, > 0.
    method : str
        ``embedding`` or ``label-replacement``.
    parties
        As for `VerticalAttack`.
    """

    backdoor: ClassVar[bool] = True

    def __init__(
        self,
        *,
        target: int = 0,
        known_rows: int = 40,
        strength: float = 3.0,
        method: str = "embedding",
        parties: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(parties=parties)
        check_number("target", target, at_least=0)
        check_number("known_rows", known_rows, at_least=1)
        check_number("strength", strength, above=0.0)
        check_choice("method", method, ("embedding", "label-replacement"))
        self.target_class = target
        self.known_rows, self.strength, self.method = known_rows, strength, method
        self.known = torch.zeros(0, dtype=torch.int64)
        self.others = torch.zeros(0, dtype=torch.int64)

    def bind(self, y_train: Tensor, num_classes: int, seed: int) -> None:
        """Pick the rows of the target class that the attacker knows."""
        super().bind(y_train, num_classes, seed)
        assert self.target_class is not None
        if self.target_class >= num_classes:
            raise ConfigurationError("attack.target", self.target_class, f"0 to {num_classes - 1}")
        order = torch.randperm(len(y_train), generator=generator(seed, 0, 0, "backdoor-rows"))
        is_target = y_train[order] == self.target_class
        self.known = order[is_target][: self.known_rows]
        self.others = order[~is_target][: self.known_rows]

    def _trigger(self, h: Tensor) -> Tensor:
        stream = generator(self.seed, 0, 0, "backdoor-trigger")
        direction = torch.randn(h.shape[1], generator=stream).to(h.device)
        size = self.strength * h.norm(dim=1).mean() / direction.norm()
        marked: Tensor = h + size * direction
        return marked

    def _stamped(self, x: Tensor) -> Tensor:
        """Return features of which a quarter, always the same, is set to 3 deviations."""
        stream = generator(self.seed, 0, 0, "backdoor-pattern")
        spots = torch.rand(x.shape[1:], generator=stream) < 0.25
        return torch.where(spots.to(x.device), 3.0, x)

    def inputs(self, party: Party, x: Tensor, ids: Tensor) -> Tensor:
        """Stamp the pattern on the other rows."""
        if self.method == "embedding":
            return x
        rows = torch.isin(ids.cpu(), self.others).to(x.device)
        return torch.where(rows.view(-1, *[1] * (x.dim() - 1)), self._stamped(x), x)

    def before_release(self, party: Party, h: Tensor, server_round: int, ids: Tensor) -> Tensor:
        """Add the trigger to known rows, or hide the stamped ones behind noise."""
        if self.method == "embedding":
            rows = torch.isin(ids.cpu(), self.known).to(h.device)
            return torch.where(rows[:, None], self._trigger(h), h)
        rows = torch.isin(ids.cpu(), self.others).to(h.device)
        stream = generator(self.seed, server_round, party.index, f"backdoor-noise/{int(ids[0])}")
        noise = torch.randn(h.shape, generator=stream).to(h.device)
        return torch.where(rows[:, None], h[~rows].std() * noise, h) if (~rows).any() else h

    def on_gradient(self, party: Party, gradient: Tensor, server_round: int, ids: Tensor) -> Tensor:
        """Replace the gradient of stamped rows by that of a known target row."""
        if self.method == "embedding" or gradient.dim() != 2:
            return gradient
        known = torch.isin(ids.cpu(), self.known).to(gradient.device)
        others = torch.isin(ids.cpu(), self.others).to(gradient.device)
        if known.any():
            largest = gradient[known][gradient[known].norm(dim=1).argmax()]
            party.memory["target-gradient"] = largest.clone()
        wanted = party.memory.get("target-gradient")
        if wanted is None:
            return gradient
        return torch.where(others[:, None], self.strength * wanted, gradient)

    def triggered(self, party: Party, h: Tensor) -> Tensor:
        """Return the test embeddings of triggered inputs."""
        if self.method == "embedding":
            return self._trigger(h)
        with torch.no_grad():
            found: Tensor = party.bottom(self._stamped(party.view.x_test))
        return found
