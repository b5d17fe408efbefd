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
    r"""A passive party infers all labels from its trained bottom model and a few known labels.

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

    Notes
    -----
    .. math::
       \hat{y} = \operatorname{argmax}_c h_c(z), \qquad
       \min_h \; \mathrm{CE}(h(\tilde{z}), \tilde{q}) + \frac{50}{C} \min\left( 1, \frac{t}{T/2}
       \right) \operatorname{mean} (\operatorname{softmax} h(\tilde{u}) - \tilde{p})^2

    in step t of T, where z is the embedding of a row, h the head, :math:`(\tilde{z}, \tilde{q})`
    mixed rows with known labels and :math:`(\tilde{u}, \tilde{p})` mixed rows with guessed and
    sharpened ones, as in MixMatch, and C the classes.
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
    r"""Model completion by a party that trains its bottom model harder than the others.

    Its optimiser scales each weight's gradient up where it keeps its sign, so that the top model
    comes to rely on this party. Fu et al., "Label Inference Attacks Against Vertical Federated
    Learning", USENIX Security 2022.

    Parameters
    ----------
    gamma : float
        Strength, > 0.
    labels_per_class, parties
        As for `PassiveCompletion`.

    Notes
    -----
    .. math::
       \tilde{g}_t = g_t \min\left( 5, \max\left( 1, \; 1 + \gamma \frac{g_t}{g_{t-1}} \right)
       \right)

    for each weight whose :math:`|g_t| > 10^{-4}`, where :math:`g_t` is its gradient in step t.
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
    r"""Model completion by parties that pool their bottom models, two or more.

    As `PassiveCompletion`, on the embeddings of all attackers side by side. Fu et al., "Label
    Inference Attacks Against Vertical Federated Learning", USENIX Security 2022, for one party;
    the pooling is ours.

    Parameters
    ----------
    labels_per_class, parties
        As for `PassiveCompletion`.

    Notes
    -----
    .. math::
       \hat{y} = \operatorname{argmax}_c h_c([z_1, \ldots, z_a])

    where :math:`z_i` is attacker i's embedding of the row, and h the head of `PassiveCompletion`.
    """

    least: ClassVar[int] = 2
