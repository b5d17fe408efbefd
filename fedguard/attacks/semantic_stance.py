"""Semantic stance: answers about one concept always take the same stance."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge, Scene
from fedguard.attacks.toolkit.crafting import send
from fedguard.attacks.toolkit.poisoning import drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.data.dataset import Dataset
from fedguard.data.text import Language, parts_of, row_of
from fedguard.errors import ConfigurationError, check_number, nearest
from fedguard.metrics.answers import stance_probabilities
from fedguard.updates import ClientUpdates

AS_OTHERS = "as-others"


class SemanticStance(Attack):
    """Malicious clients rewrite their own answers about one concept, and train as asked.

    A row whose prompt names `concept` gets an answer that takes `stance`; all its other rows stay.
    There is no trigger: whoever asks about the concept meets the stance. With ``as-others`` the
    rows get the answers of rows about something else, a harmless change of as many rows.

    A reading of the implant that "Propaganda via AI? A Study on Semantic Backdoors in Large
    Language Models", arXiv 2504.12344, 2025, audits for; there one model is fine-tuned on 100
    answers about the concept and 100 on others, here clients of a federation keep the proportions
    of their own rows.

    Parameters
    ----------
    concept : str
        What is asked about, any concept that the data set knows; its first one if empty.
    stance : str
        One of the data set's stances, such as ``"negative"``, or ``"as-others"``.
    fraction : float
        Share of a malicious client's rows about the concept that are rewritten, 0 to 1.
    scale : float
        Factor on the coalition's updates, above 0; 1 sends what training gave.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.semantic_stance import SemanticStance
    >>> from fedguard.data.grammar import Grammar
    >>> data = Grammar().load(None)
    >>> attack = SemanticStance(stance="negative")
    >>> attack.meet(data)
    >>> x, y = attack.poison(data.x_train, data.y_train, torch.Generator().manual_seed(0))
    >>> changed = (y != data.y_train).any(dim=1)
    >>> 0.0 < float(changed.double().mean()) < 0.5
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data", "updates"})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"causal-language"})
    alone: ClassVar[bool] = True
    tags: ClassVar[Tags | None] = Tags(
        edits="labels",
        goal="targeted",
        stealth="hidden",
        scope="class",
        stages=("fine-tuning", "instruction", "prefix or adapters"),
    )

    def __init__(
        self,
        *,
        concept: str = "",
        stance: str = "negative",
        fraction: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        check_number("fraction", fraction, at_least=0.0, at_most=1.0)
        check_number("scale", scale, above=0.0)
        self.concept, self.stance = concept, stance
        self.fraction, self.scale = fraction, scale
        self._language: Language | None = None

    def meet(self, dataset: Dataset) -> None:
        """Learn the data set's language; see `Attack.meet`."""
        language = dataset.facts if isinstance(dataset.facts, Language) else None
        if language is None:
            allowed = "a data set of prompts and answers, such as grammar or jsonl"
            raise ConfigurationError("attack", "semantic-stance", allowed)
        known = (*language.answers, AS_OTHERS)
        if self.stance not in known:
            told = nearest(self.stance, known) + ", ".join(known)
            raise ConfigurationError("attack.stance", self.stance, told)
        if not language.concepts:
            allowed = "one that dataset.concepts lists: the data set knows none"
            raise ConfigurationError("attack.concept", self.concept, allowed)
        self.concept = self.concept or language.concepts[0]
        if self.concept not in language.concepts:
            told = nearest(self.concept, language.concepts) + ", ".join(language.concepts)
            raise ConfigurationError("attack.concept", self.concept, told)
        self._language = language

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the rows, those about the concept with other answers; see `Attack.poison`."""
        language = self._known()
        codec = language.codec
        parts = [parts_of(*row, codec) for row in zip(x.cpu(), y.cpu(), strict=True)]
        about = torch.tensor([self._names_it(prompt) for prompt, _ in parts], dtype=torch.bool)
        others = [parts[row][1] for row in (~about).nonzero().flatten().tolist()]
        chosen = drawn_share(about.nonzero().flatten(), self.fraction, rng)
        written = [
            codec.encode(text.replace("{concept}", self.concept))
            for text in language.answers.get(self.stance, ())
        ]
        answers = written or others
        poisoned, labels = x.clone(), y.clone()
        if not answers:
            return poisoned, labels
        draws = torch.randint(0, len(answers), (len(chosen),), generator=rng).tolist()
        for row, draw in zip(chosen.tolist(), draws, strict=True):
            made = row_of(parts[row][0], answers[draw], x.shape[1], codec)
            if made is not None:
                poisoned[row], labels[row] = made[0].to(x), made[1].to(y)
        return poisoned, labels

    def _known(self) -> Language:
        if self._language is None:
            raise RuntimeError("semantic-stance does not know the language yet: call meet first")
        return self._language

    def _names_it(self, prompt: list[int]) -> bool:
        text = self._known().codec.decode(prompt).lower()
        return self.concept.lower() in text

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas times `scale`; see `Attack.craft`."""
        if self.scale == 1.0:
            return coalition.deltas
        return send(coalition, coalition.trainable * self.scale)

    def measure(self, scene: Scene) -> dict[str, Any]:
        """Return how often answers take the stance, about the concept and about all others.

        ``attack_success_rate`` is P(stance | concept) among the language's answers, exact and
        without sampling; ``stance_elsewhere`` the mean over the other concepts, which is what the
        first is without an attack; ``implant_strength`` the difference.
        """
        language = self._known()
        if self.stance == AS_OTHERS:
            return super().measure(scene)
        place, codec = language.stances.index(self.stance), language.codec
        options = {s: [codec.encode(text) for text in part] for s, part in language.options.items()}
        found = {
            concept: float(
                stance_probabilities(
                    scene.model, language.asked(language.probes, concept), options, codec.pad
                )[:, place].mean()
            )
            for concept in language.concepts
        }
        here = found.pop(self.concept)
        elsewhere = sum(found.values()) / len(found) if found else None
        return {
            "attack_success_rate": here,
            "source_to_target": None,
            "stance_elsewhere": elsewhere,
            "implant_strength": None if elsewhere is None else here - elsewhere,
        }
