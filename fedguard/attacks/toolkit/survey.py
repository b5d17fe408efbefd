"""Where an attack stands in a survey's classes of poisoning, so that gaps can be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from fedguard.errors import ConfigurationError, nearest

CHARACTERISTICS: Mapping[str, tuple[str, ...]] = {
    "edits": ("labels", "inputs", "both", "model"),
    "goal": ("untargeted", "targeted", "backdoor"),
    "knowledge": ("black", "gray", "white"),
    "stealth": ("open", "hidden"),
    "scope": ("instance", "pattern", "class", "broad"),
    "impact": ("performance", "robustness", "fairness"),
    "variability": ("static", "dynamic"),
}
"""The survey's seven characteristics and their classes; ``model`` is a federation's own."""

ALGORITHMS = (
    "heuristic",
    "label flip",
    "feature collision",
    "bilevel",
    "influence",
    "generative",
)
"""How poison is made; gradient matching counts as bilevel."""

STAGES = (
    "pre-training",
    "fine-tuning",
    "alignment",
    "instruction",
    "prefix or adapters",
    "in-context",
    "prompt injection",
)
"""When a language model is poisoned."""

LEFT_OUT: Mapping[str, str] = {
    "in-context": "nothing is trained: the poison is in examples that a finished model is shown",
    "prompt injection": "nothing is trained: the poison is in what a finished model reads",
}
"""Classes without a part, each with the reason."""


@dataclass(frozen=True)
class Tags:
    """An attack's classes in the seven characteristics, and how and when it poisons.

    Zhao, Zhu, Jiao, Gao and Wu, "Data Poisoning in Deep Learning: A Survey", arXiv 2503.22759,
    2025. Where an argument decides, the tags are those of the defaults. Which class an attack
    falls into is our reading.

    Attributes
    ----------
    edits : str
        What the attacker changes: ``"labels"``, ``"inputs"`` or ``"both"`` of training rows, or
        the ``"model"`` that it sends or hands out.
    goal : str
        ``"untargeted"``: the model is to be worse; ``"targeted"``: chosen rows, untouched, are to
        be mistaken, or one item, concept or class favoured; ``"backdoor"``: whatever has a trigger.
    knowledge : str
        ``"black"``: a client's own rows; ``"gray"``: also the broadcast model or the coalition's
        updates; ``"white"``: also the deployed rule or what is tested on.
    stealth : str
        ``"hidden"``: made to pass a look at the rows or the updates; ``"open"``: not.
    scope : str
        What it is about: an ``"instance"``, a ``"pattern"``, a ``"class"`` (or group of rows), or
        all: ``"broad"``.
    impact : str
        What suffers: ``"performance"``, ``"robustness"`` to small changes of inputs, or
        ``"fairness"``.
    variability : str
        ``"static"``: made once; ``"dynamic"``: follows the model or the round.
    by : tuple of str
        Some of `ALGORITHMS`.
    stages : tuple of str
        Some of `STAGES`, for attacks that poison language models.

    Raises
    ------
    ConfigurationError
        If a tag is none of the survey's classes; names the nearest one.
    """

    edits: str
    goal: str = "untargeted"
    knowledge: str = "black"
    stealth: str = "open"
    scope: str = "broad"
    impact: str = "performance"
    variability: str = "static"
    by: tuple[str, ...] = ("heuristic",)
    stages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            known = {**CHARACTERISTICS, "by": ALGORITHMS, "stages": STAGES}[field.name]
            for one in (given,) if isinstance(given, str) else given:
                if one not in known:
                    told = nearest(one, known) + ", ".join(known)
                    raise ConfigurationError(f"tags.{field.name}", one, told)

    @property
    def classes(self) -> frozenset[tuple[str, str]]:
        """Return every (characteristic, class) that it ticks; algorithms and stages among them."""
        single = {(name, getattr(self, name)) for name in CHARACTERISTICS}
        several = {("by", one) for one in self.by} | {("stages", one) for one in self.stages}
        return frozenset(single | several)


def survey_classes() -> list[tuple[str, str]]:
    """Return every (characteristic, class) of the survey; algorithms and stages among them."""
    every = {**CHARACTERISTICS, "by": ALGORITHMS, "stages": STAGES}
    return [(name, one) for name, classes in every.items() for one in classes]
