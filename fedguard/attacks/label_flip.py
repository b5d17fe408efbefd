"""Label flip: train on wrong labels."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send
from fedguard.attacks.toolkit.poisoning import check_class, drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import ConfigurationError, check_choice, check_number, check_unread
from fedguard.updates import ClientUpdates

Mode = Literal["static", "cyclic", "targeted", "random"]

_MODES = ("static", "cyclic", "targeted", "random")


class LabelFlip(Attack):
    r"""Malicious clients train as asked, on labels that are wrong.

    Tolpegin et al., "Data Poisoning Attacks Against Federated Learning Systems", ESORICS 2020
    (targeted); Biggio, Nelson and Laskov, "Support Vector Machines Under Adversarial Label
    Noise", ACML 2011 (random). With an odd number of classes, static leaves the middle one as it
    is. An example may have one label or several, such as one for each position of a sequence: all
    labels of a chosen example are flipped, in the targeted mode those of the source class; labels
    below 0, which mark what is not to be learnt, stay.

    Parameters
    ----------
    mode : str
        ``"static"``, ``"cyclic"``, ``"targeted"`` or ``"random"``.
    source_class, target_class : int
        The flip of the targeted mode; other modes do not read them.
    poison_fraction : float
        Share of the client's examples that are flipped, 0 to 1; in the targeted mode of its
        examples of the source class. They are drawn from the client's stream.
    scale : float
        Factor on the coalition's updates, above 0, as in the boosting of Bhagoji et al.,
        "Analyzing Federated Learning through an Adversarial Lens", ICML 2019; 1 sends what
        training gave.

    Notes
    -----
    .. math::
       y' = \begin{cases} C - 1 - y & \text{static} \\ (y + 1) \bmod C & \text{cyclic} \\
       t \text{ if } y = s \text{, else } y & \text{targeted} \\
       (y + k) \bmod C, \; k \sim U\{1, \ldots, C - 1\} & \text{random} \end{cases}
       \qquad d_i' = q \, d_i

    where C are the classes, s and t source and target class, :math:`d_i` what training on these
    labels gave member i, and q the `scale`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.label_flip import LabelFlip
    >>> x, y = torch.zeros(4, 1), torch.tensor([0, 1, 2, 2])
    >>> attack = LabelFlip(mode="targeted", source_class=2, target_class=0)
    >>> attack.bind(3, (1,))
    >>> attack.poison(x, y, torch.Generator())[1].tolist()
    [0, 1, 0, 0]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data", "updates"})
    alone: ClassVar[bool] = True
    tags: ClassVar[Tags | None] = Tags(edits="labels", by=("label flip",), stages=("pre-training",))

    def __init__(
        self,
        *,
        mode: Mode = "static",
        source_class: int = 0,
        target_class: int = 1,
        poison_fraction: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        check_choice("mode", mode, _MODES)
        check_number("source_class", source_class, at_least=0)
        check_number("target_class", target_class, at_least=0)
        check_number("poison_fraction", poison_fraction, at_least=0.0, at_most=1.0)
        check_number("scale", scale, above=0.0)
        if mode == "targeted" and source_class == target_class:
            raise ConfigurationError("target_class", target_class, "a class other than the source")
        if mode != "targeted":
            check_unread(
                f"mode {mode}", source_class=(source_class, 0), target_class=(target_class, 1)
            )
        self.mode = mode
        self.source_class = source_class if mode == "targeted" else None
        self.target_class = target_class if mode == "targeted" else None
        self.poison_fraction = poison_fraction
        self.scale = scale
        self.num_classes = 0

    def bind(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        """Learn the number of classes; see `Attack.bind`."""
        if self.source_class is not None and self.target_class is not None:
            check_class("source_class", self.source_class, num_classes)
            check_class("target_class", self.target_class, num_classes)
        self.num_classes = num_classes

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the examples with flipped labels; see `Attack.poison`."""
        if not self.num_classes:
            raise RuntimeError("label-flip does not know the classes yet: call bind first")
        candidates = torch.arange(len(y))
        if self.source_class is not None:
            candidates = candidates[_with(self.source_class, y).cpu()]
        chosen = drawn_share(candidates, self.poison_fraction, rng).to(y.device)
        flipped = y.clone()
        flipped[chosen] = self._flip(y[chosen], rng)
        return x, flipped

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas times `scale`; see `Attack.craft`."""
        if self.scale == 1.0:
            return coalition.deltas
        return send(coalition, coalition.trainable * self.scale)

    def _flip(self, y: Tensor, rng: torch.Generator) -> Tensor:
        return torch.where(y < 0, y, self._other(y, rng))

    def _other(self, y: Tensor, rng: torch.Generator) -> Tensor:
        if self.source_class is not None and self.target_class is not None:
            return y.masked_fill(y == self.source_class, self.target_class)
        if self.mode == "static":
            return self.num_classes - 1 - y
        if self.mode == "cyclic":
            return (y + 1) % self.num_classes
        step = torch.randint(1, max(self.num_classes, 2), y.shape, generator=rng)
        return (y + step.to(y.device, y.dtype)) % self.num_classes


def _with(label: int, y: Tensor) -> Tensor:
    """Return the (N,) mask of the examples that have this label, or one that is."""
    return (y == label).unsqueeze(-1).flatten(1).any(dim=1)
