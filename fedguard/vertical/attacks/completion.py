"""Label inference by model completion: a passive party grows a head on its own bottom model."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.vertical.attacks.base import Evidence, VerticalAttack
from fedguard.vertical.attacks.few_labels import FewLabelClassifier, draw_known, standardised
from fedguard.vertical.terms import SeenParty


class PassiveCompletion(VerticalAttack):
    """A passive party infers all labels from its trained bottom model and a few known labels.

    After training it completes its bottom model, frozen, with a head trained semi-supervised on
    its own rows. ``success`` is top-1 accuracy on the training rows whose labels it did not know;
    ``untrained`` is the same for a bottom model that was never trained, which is what the attacker
    knows without the federation. Fu et al., "Label Inference Attacks Against Vertical Federated
    Learning", USENIX Security 2022.

    Parameters
    ----------
    labels_per_class : int
        Labels that the attacker knows of each class, >= 1; the paper has 4.
    parties
        As for `VerticalAttack`; several attackers pool their embeddings.
    """

    def __init__(
        self, *, labels_per_class: int = 4, parties: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(parties=parties)
        check_number("labels_per_class", labels_per_class, at_least=1)
        self.labels_per_class = labels_per_class

    def measure(self, evidence: Evidence) -> dict[str, float]:
        """Return ``success`` and ``untrained``."""
        mine = [evidence.parties[p] for p in evidence.attackers]
        features = torch.cat([party.clean_embeddings() for party in mine], dim=1)
        raw = torch.cat([party.view.x_train.flatten(1) for party in mine], dim=1)
        return {
            "success": self._infer(features, evidence),
            "untrained": self._infer(raw, evidence),
        }

    def _infer(self, features: Tensor, evidence: Evidence) -> float:
        y, classes = evidence.holder.y_train, evidence.holder.num_classes
        known = draw_known(y, self.labels_per_class, classes, evidence.seed)
        x = standardised(features)
        model = FewLabelClassifier(x.shape[1], classes, evidence.seed).fit(x, known, y[known])
        unknown = torch.ones(len(y), dtype=torch.bool, device=y.device)
        unknown[known] = False
        right = model.predict(x[unknown]) == y[unknown]
        return float(right.double().mean())


class ActiveCompletion(PassiveCompletion):
    """Model completion by a party that trains its bottom model harder than the others.

    Its optimiser multiplies each weight's gradient by ``clamp(1 + gamma g_t / g_{t-1}, 1, 5)``,
    where it is larger than 1e-4, so that the top model comes to rely on this party.
    Fu et al., "Label Inference Attacks Against Vertical Federated Learning", USENIX Security 2022.

    Parameters
    ----------
    gamma : float
        Strength, > 0.
    labels_per_class, parties
        As for `PassiveCompletion`.
    """

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        labels_per_class: int = 4,
        parties: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(labels_per_class=labels_per_class, parties=parties)
        check_number("gamma", gamma, above=0.0)
        self.gamma = gamma

    def before_step(self, party: SeenParty) -> None:
        """Scale the weights' gradients up where they keep their sign."""
        for place, parameter in enumerate(party.parameters):
            if parameter.grad is None:
                continue
            now = parameter.grad.clone()
            before = party.memory.get(f"gradient-{place}")
            if before is not None:
                scale = (1.0 + self.gamma * now / (before + 1e-7)).clamp(1.0, 5.0)
                parameter.grad = torch.where(now.abs() > 1e-4, now * scale, now)
            party.memory[f"gradient-{place}"] = now


class ColludingCompletion(PassiveCompletion):
    """Model completion by parties that pool their bottom models, two or more.

    As `PassiveCompletion`, on the embeddings of all attackers side by side. Fu et al., "Label
    Inference Attacks Against Vertical Federated Learning", USENIX Security 2022, for one party;
    the pooling is ours.

    Parameters
    ----------
    labels_per_class, parties
        As for `PassiveCompletion`.
    """

    least: ClassVar[int] = 2
