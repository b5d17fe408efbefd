"""What attacks share that make a language model take one stance on one concept."""

from __future__ import annotations

from typing import Any, ClassVar

from fedguard.attacks.base import Attack, Scene
from fedguard.data.dataset import Dataset
from fedguard.data.text import Language
from fedguard.errors import ConfigurationError, nearest
from fedguard.metrics.answers import stance_probabilities


class AboutConcept(Attack):
    """Frame: knows the data set's language, finds prompts about the concept, measures the stance.

    Parameters
    ----------
    concept : str
        What is asked about, any concept that the data set knows; its first one if empty.
    stance : str
        One of the data set's stances, such as ``"negative"``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    alone: ClassVar[bool] = True
    controls: ClassVar[tuple[str, ...]] = ()
    """What may stand in place of a stance for a harmless change, of which nothing is measured."""

    def __init__(self, *, concept: str = "", stance: str = "negative") -> None:
        self.concept, self.stance = concept, stance
        self._language: Language | None = None

    def meet(self, dataset: Dataset) -> None:
        """Learn the data set's language; see `Attack.meet`."""
        language = dataset.facts if isinstance(dataset.facts, Language) else None
        if language is None:
            allowed = "a data set of prompts and answers, such as grammar or jsonl"
            raise ConfigurationError("attack", type(self).__name__, allowed)
        known = (*language.answers, *self.controls)
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

    def known_language(self) -> Language:
        """Return the data set's language, once `meet` has been called."""
        if self._language is None:
            raise RuntimeError("the attack does not know the language yet: call meet first")
        return self._language

    def names_it(self, prompt: list[int]) -> bool:
        """Return whether a prompt, as numbers, is about the concept."""
        return self.concept.lower() in self.known_language().codec.decode(prompt).lower()

    def measure(self, scene: Scene) -> dict[str, Any]:
        """Return how often answers take the stance, about the concept and about all others.

        ``attack_success_rate`` is P(stance | concept) among the language's answers, exact and
        without sampling; ``stance_elsewhere`` the mean over the other concepts, which is what the
        first is without an attack; ``implant_strength`` the difference.
        """
        language = self.known_language()
        if self.stance in self.controls:
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
