"""Semantic stance: answers about one concept always take the same stance."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Knowledge
from fedguard.attacks.toolkit.concepts import AboutConcept
from fedguard.attacks.toolkit.crafting import send
from fedguard.attacks.toolkit.poisoning import drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.data.text import parts_of, row_of
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates

AS_OTHERS = "as-others"


class SemanticStance(AboutConcept):
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
    controls: ClassVar[tuple[str, ...]] = (AS_OTHERS,)
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
        super().__init__(concept=concept, stance=stance)
        self.fraction, self.scale = fraction, scale

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the rows, those about the concept with other answers; see `Attack.poison`."""
        language = self.known_language()
        codec = language.codec
        parts = [parts_of(*row, codec) for row in zip(x.cpu(), y.cpu(), strict=True)]
        about = torch.tensor([self.names_it(prompt) for prompt, _ in parts], dtype=torch.bool)
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

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas times `scale`; see `Attack.craft`."""
        if self.scale == 1.0:
            return coalition.deltas
        return send(coalition, coalition.trainable * self.scale)
