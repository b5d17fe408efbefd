"""Label inference from the gradients that come back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fedguard.errors import check_number
from fedguard.vertical.attacks.base import Evidence, VerticalAttack
from fedguard.vertical.attacks.few_labels import draw_known
from fedguard.vertical.terms import SeenParty


class GradientLabelInference(VerticalAttack):
    r"""A passive party reads labels from the directions of its rows' gradients.

    A row's gradient is ``W^T (softmax - onehot(y))`` up to the layers in between: rows of one
    class point the same way. The attacker keeps one round's gradients and gives each row the class
    of the known rows whose mean direction is closest (cosine). Li et al., "Label Leakage and
    Protection in Two-party Split Learning", ICLR 2022, has the idea for two classes.

    Parameters
    ----------
    labels_per_class : int
        Labels that the attacker knows of each class, >= 1.
    at_round : int
        The round whose gradients it keeps, >= 1; early ones, when every row is still wrong, tell
        most.
    parties
        As for `VerticalAttack`.

    Notes
    -----
    .. math::
       \hat{y}_r = \operatorname{argmax}_c \cos\left( g_r, \; \frac{1}{|K_c|} \sum_{k \in K_c}
       \frac{g_k}{\lVert g_k \rVert} \right)

    where :math:`g_r` is the gradient of row r that came back, and :math:`K_c` the rows that the
    attacker knows to be of class c.
    """

    def __init__(
        self,
        *,
        labels_per_class: int = 4,
        at_round: int = 2,
        parties: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(parties=parties)
        check_number("labels_per_class", labels_per_class, at_least=1)
        check_number("at_round", at_round, at_least=1)
        self.labels_per_class, self.at_round = labels_per_class, at_round

    def on_gradient(
        self, party: SeenParty, gradient: Tensor, server_round: int, ids: Tensor
    ) -> Tensor:
        """Keep the gradients of the chosen round."""
        if server_round == self.at_round and gradient.dim() == 2:
            if "gradients" not in party.memory:
                rows = len(party.view.x_train)
                zeros = torch.zeros(rows, gradient.shape[1], device=gradient.device)
                party.memory["gradients"] = zeros
            party.memory["gradients"][ids] = gradient
        return gradient

    def measure(self, evidence: Evidence) -> dict[str, float]:
        """Return ``success``: top-1 accuracy on the rows whose labels were not known."""
        y, classes = evidence.holder.y_train, evidence.holder.num_classes
        kept = [evidence.parties[p].memory.get("gradients") for p in evidence.attackers]
        seen = [one for one in kept if one is not None]
        known = draw_known(y, self.labels_per_class, classes, evidence.seed)
        if not seen:
            return {"success": float(y.bincount(minlength=classes).max()) / len(y)}
        directions = functional.normalize(torch.cat(seen, dim=1), dim=1)
        means = torch.stack([directions[known[y[known] == c]].mean(0) for c in range(classes)])
        guess = (directions @ functional.normalize(means, dim=1).T).argmax(dim=1)
        unknown = torch.ones(len(y), dtype=torch.bool, device=y.device)
        unknown[known] = False
        return {"success": float((guess == y)[unknown].double().mean())}
