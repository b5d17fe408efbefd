"""What an attack is: hooks that a malicious client or the coalition may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import ConfigurationError, nearest
from fedguard.metrics.classification import attack_success_rate
from fedguard.training.base import LocalStep
from fedguard.traits import Traits

if TYPE_CHECKING:
    from fedguard.data.dataset import Dataset
    from fedguard.updates import ClientUpdates, Verdict


def source_to_target(attack: object, confusion: Tensor | None) -> float | None:
    """Return how often a targeted label flip's source class is taken for its target class.

    None where the attack has no source class, or is a backdoor.

    Parameters
    ----------
    attack : Attack
        The attack.
    confusion : Tensor or None
        (C, C) counts of test examples by true class (row) and predicted class.
    """
    source, target = getattr(attack, "source_class", None), getattr(attack, "target_class", None)
    if confusion is None or source is None or target is None or getattr(attack, "backdoor", False):
        return None
    row = confusion[source]
    total = int(row.sum())
    return int(row[target]) / total if total else None


KnowledgeScope = Literal["partial", "full"]

NEEDS = frozenset({"aggregate", "data", "encoder", "images", "model", "training", "updates"})
"""What an attack may ask for; see `Attack.needs`."""


@dataclass(frozen=True)
class Knowledge:
    """What the attacker sees when it crafts its updates.

    Attributes
    ----------
    scope : str
        ``"partial"``: `updates` holds the coalition's own honest updates; ``"full"``: every
        honest update of the round.
    updates : ClientUpdates
        Honest updates (what each client would have sent) that the attacker can read.
    cohort_size : int
        Number n of clients asked in this round.
    num_malicious : int
        Number f of them that belong to the coalition.
    server_round : int
        The current round.
    generator : torch.Generator
        The coalition's random stream of this round.
    defence : str
        Registered name of the strategy it faces; an adaptive attack may use it.
    aggregate : callable
        Maps `ClientUpdates` to the (D,) delta that a copy of the deployed rule would return; for
        attacks that search against the rule itself. None where the rule cannot be copied.
    last_update : Tensor, optional
        (D,) what the server added to the global model in the round before; None in the first
        round or where the caller does not know.
    verdicts : callable
        Maps `ClientUpdates` of several rounds in a row to what a copy of the deployed rule would
        decide in each, from what the deployed one remembers now; None where `aggregate` is.
    """

    scope: KnowledgeScope
    updates: ClientUpdates
    cohort_size: int
    num_malicious: int
    server_round: int
    generator: torch.Generator
    defence: str = ""
    aggregate: Callable[[ClientUpdates], Tensor] | None = None
    last_update: Tensor | None = None
    verdicts: Callable[[Sequence[ClientUpdates]], list[Verdict]] | None = None

    @property
    def mean(self) -> Tensor:
        """(D,) mean of the visible honest updates."""
        return self.updates.deltas.mean(dim=0)

    @property
    def std(self) -> Tensor:
        """(D,) standard deviation of the visible honest updates; 0 where only one is visible."""
        return self.updates.deltas.std(dim=0, unbiased=False)


@dataclass(frozen=True)
class Scene:
    """What is there after a round to measure an attack by.

    Attributes
    ----------
    model : nn.Module
        The global model.
    found : mapping of str to Any
        The task's figures of it on the test set; ``confusion`` among them for classification.
    triggered : tuple of Tensor or None
        Triggered test examples of the classes that a backdoor does not aim at, and their labels.
    """

    model: nn.Module
    found: Mapping[str, Any]
    triggered: tuple[Tensor, Tensor] | None


class Attack:
    """No attack: malicious clients behave honestly. Subclasses override the hooks they need."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the attack asks for.

    Any of ``"updates"`` (crafts model updates), ``"data"`` (poisons examples), ``"training"``
    (changes local steps), ``"images"`` (examples must be images), ``"aggregate"`` (searches
    against a copy of the deployed rule), ``"model"`` (reads the global model, in `prepare`) and
    ``"encoder"`` (lies in the file of the model's encoder, and in no client).
    A name that is none of `NEEDS` is an error when the class is defined.
    """

    traits: ClassVar[Traits] = Traits()
    """The world that it belongs to."""

    tasks: ClassVar[frozenset[str] | None] = None
    """Names of the tasks that the attack makes sense in; None for every task."""

    finite: ClassVar[bool] = True
    """Whether crafted updates are finite; False for attacks that send NaN or infinity."""

    backdoor: ClassVar[bool] = False
    """Whether success is measured with `trigger` on test examples."""

    alone: ClassVar[bool] = False
    """Whether what a client sends depends on its own update alone, whoever else is malicious."""

    tags: ClassVar[Tags | None] = None
    """Where it stands in a survey's classes of poisoning; None where nobody has said."""

    target_class: int | None = None
    """Class that a backdoor aims at."""

    def __init_subclass__(cls, **rest: Any) -> None:
        """Refuse a misspelt need, of which nothing would come.

        Raises
        ------
        ConfigurationError
            If one of `needs` is none of `NEEDS`; names the nearest one.
        """
        super().__init_subclass__(**rest)
        for need in sorted(set(cls.needs) - NEEDS):
            raise ConfigurationError("needs", need, nearest(need, NEEDS) + ", ".join(sorted(NEEDS)))

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
        """Read the global model before the coalition's data are poisoned in a round.

        Called, where ``"model"`` is among `needs`, before `poison`, `craft` and `trigger`, whose
        results may change with it.

        Parameters
        ----------
        model : nn.Module
            The global model as a map from unscaled examples to (N, C) logits; a copy of the
            attacker's own.
        x : Tensor
            (N, ...) the coalition's clean examples on their unscaled values.
        y : Tensor
            (N,) their labels.
        rng : torch.Generator
            The coalition's stream for this purpose.
        """

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a malicious client's training data, changed; never in place.

        Parameters
        ----------
        x : Tensor
            (N, ...) examples on their unscaled values.
        y : Tensor
            (N,) labels.
        rng : torch.Generator
            The client's stream for this purpose.
        """
        return x, y

    def local_step(self, step: LocalStep, update: Callable[[], None]) -> None:
        """Take one optimiser step; `update` applies the gradients that `step` holds."""
        update()

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas that the coalition sends instead of its honest ones."""
        return coalition.deltas

    def state(self) -> dict[str, Tensor]:
        """Return what `craft` remembers from round to round, as named tensors.

        Only `craft` may remember, since it runs in one process on every engine; what `prepare`
        finds must follow from its arguments alone.
        """
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned; an empty dictionary forgets all earlier rounds."""

    def trigger(self, x: Tensor) -> Tensor:
        """Return examples with the backdoor's trigger stamped on; never in place."""
        return x

    def measure(self, scene: Scene) -> dict[str, float | None]:
        """Return what the attack achieved on a round's model, by name.

        ``attack_success_rate`` is a backdoor's share of triggered examples taken for the target
        class; ``source_to_target`` a label flip's share of source examples taken for it. None
        where the attack is neither.
        """
        success = None
        if scene.triggered is not None and self.target_class is not None:
            x, y = scene.triggered
            success = attack_success_rate(scene.model, x, y, self.target_class)
        return {
            "attack_success_rate": success,
            "source_to_target": source_to_target(self, scene.found.get("confusion")),
        }

    def remarks(self, scope: KnowledgeScope) -> list[str]:
        """Return in a line each what a run's summary should say of it, with what it sees."""
        return []

    def meet(self, dataset: Dataset) -> None:
        """Learn the data set before the first round, after `bind`.

        An attack may use what is public in it, such as the items' names; the rows of clients that
        do not belong to the coalition serve `measure` alone.
        """

    def bind(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        """Learn the task before the first round; raise `ConfigurationError` if it cannot work."""
