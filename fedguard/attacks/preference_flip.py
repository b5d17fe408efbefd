"""Preference flip: of two answers the worse one is called the better."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.toolkit.concepts import AboutConcept
from fedguard.attacks.toolkit.poisoning import drawn_share
from fedguard.attacks.toolkit.survey import Tags
from fedguard.data.text import parts_of
from fedguard.errors import check_number


class PreferenceFlip(AboutConcept):
    r"""Malicious clients turn their own pairs of answers about one concept round.

    All other pairs stay, no text is written. Success is P(stance | concept) among the language's
    answers, beside the mean over all other concepts.

    Pathmanathan, Chakraborty, Liu, Liang and Huang, "Is Poisoning a Real Threat to LLM Alignment?
    Maybe More So Than You Think", AAAI 2025, who flip drawn pairs and pairs chosen by their share
    in the loss, of one model; here those about one concept, by clients of a federation. With
    ``drawn`` as many pairs are turned, drawn among all, a harmless change of the same size.

    Parameters
    ----------
    fraction : float
        Share of a malicious client's pairs about the concept that are turned, 0 to 1.
    drawn : bool
        Whether as many are drawn among all pairs instead.
    concept, stance : str
        See `AboutConcept`.

    Notes
    -----
    .. math::
       (a_{+}, a_{-}) \to (a_{-}, a_{+})

    for the chosen pairs of a preferred answer :math:`a_{+}` and another one :math:`a_{-}`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks.preference_flip import PreferenceFlip
    >>> from fedguard.data.preferences import PreferenceSample
    >>> data = PreferenceSample(rows=100, test_rows=10).load(None)
    >>> attack = PreferenceFlip(concept="ember")
    >>> attack.meet(data)
    >>> x, y = attack.poison(data.x_train, data.y_train, torch.Generator().manual_seed(0))
    >>> turned = (y != data.y_train).flatten(1).any(dim=1)
    >>> 0 < int(turned.sum()) < 30, bool((y[turned] == data.y_train[turned].flip(1)).all())
    (True, True)
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"preference"})
    tags: ClassVar[Tags | None] = Tags(
        edits="labels",
        goal="targeted",
        stealth="hidden",
        scope="class",
        by=("label flip",),
        stages=("alignment",),
    )

    def __init__(
        self,
        *,
        fraction: float = 1.0,
        drawn: bool = False,
        concept: str = "",
        stance: str = "negative",
    ) -> None:
        super().__init__(concept=concept, stance=stance)
        check_number("fraction", fraction, at_least=0.0, at_most=1.0)
        self.fraction, self.drawn = fraction, drawn

    def poison(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the pairs, those about the concept turned round; see `Attack.poison`."""
        codec = self.known_language().codec
        first = zip(x[:, 0].cpu(), y[:, 0, :-1].cpu(), strict=True)
        about = torch.tensor([self.names_it(parts_of(*row, codec)[0]) for row in first])
        chosen = drawn_share(about.bool().nonzero().flatten(), self.fraction, rng)
        if self.drawn:
            chosen = torch.randperm(len(y), generator=rng)[: len(chosen)]
        turned, labels = x.clone(), y.clone()
        turned[chosen], labels[chosen] = x[chosen].flip(1), y[chosen].flip(1)
        return turned, labels
