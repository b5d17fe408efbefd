"""What data-poisoning attacks share: the share of examples they change, and backdoors' frame."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import ConfigurationError, check_number
from fedguard.updates import ClientUpdates


def drawn_share(candidates: Tensor, fraction: float, rng: torch.Generator) -> Tensor:
    """Return the given share of candidates, drawn without replacement, in ascending order.

    The number is rounded to the nearest; at least one where the share is above 0 and there is
    a candidate.
    """
    wanted = round(fraction * len(candidates))
    if fraction > 0.0 and len(candidates):
        wanted = max(wanted, 1)
    order = torch.randperm(len(candidates), generator=rng)
    return candidates[order[:wanted].sort().values]


def check_class(field: str, value: int, num_classes: int) -> None:
    """Raise `ConfigurationError` unless `value` is a class of the task."""
    if not 0 <= value < num_classes:
        allowed = f"a class from 0 to {num_classes - 1} of this data set"
        raise ConfigurationError(field, value, allowed)


def check_images(attack: Attack, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width; raise `ConfigurationError` where examples are no images."""
    if len(input_shape) != 3:
        allowed = f"only on images; examples of this data set have the shape {input_shape}"
        raise ConfigurationError("attack", type(attack).__name__, allowed)
    return input_shape[1], input_shape[2]


class Backdoor(Attack):
    """Frame of the dirty-label backdoors on images: stamp a share of the examples and relabel.

    Subclasses write `trigger`. A poisoned example is ``(trigger(x), target_class)``; the
    coalition's updates are multiplied by `scale` before they are sent.

    Parameters
    ----------
    target_class : int
        Class that triggered examples shall be taken for.
    poison_fraction : float
        Share of each malicious client's examples that are poisoned, 0 to 1; drawn from the
        client's stream among all its examples.
    scale : float
        Factor on the coalition's updates, above 0; 1 sends what training gave, ``n / f`` replaces
        the plain mean of n clients by the coalition's model.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data", "images", "updates"})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})
    backdoor: ClassVar[bool] = True
    tags: ClassVar[Tags | None] = Tags(edits="both", goal="backdoor", scope="pattern")
    target_class: int

    def __init__(
        self, *, target_class: int = 0, poison_fraction: float = 0.5, scale: float = 1.0
    ) -> None:
        check_number("target_class", target_class, at_least=0)
        check_number("poison_fraction", poison_fraction, at_least=0.0, at_most=1.0)
        check_number("scale", scale, above=0.0)
        self.target_class = target_class
        self.poison_fraction = poison_fraction
        self.scale = scale

    def bind(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        """Check that the task has images and the target class; see `Attack.bind`."""
        check_images(self, input_shape)
        check_class("target_class", self.target_class, num_classes)

    def chosen(self, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return the rows of a client's examples that are poisoned."""
        return drawn_share(torch.arange(len(y)), self.poison_fraction, rng).to(y.device)

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the examples, a share of them stamped and relabelled; see `Attack.poison`."""
        chosen = self.chosen(y, rng)
        poisoned, labels = x.clone(), y.clone()
        poisoned[chosen] = self.trigger(x[chosen])
        labels[chosen] = self.target_class
        return poisoned, labels

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas times `scale`; see `Attack.craft`."""
        if self.scale == 1.0:
            return coalition.deltas
        return send(coalition, coalition.trainable * self.scale)
