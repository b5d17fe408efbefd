"""Model replacement with constrain-and-scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from fedguard.attacks.badnets import BadNets
from fedguard.attacks.base import Knowledge
from fedguard.attacks.toolkit.crafting import norm, send
from fedguard.attacks.toolkit.projection import distance
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.training.base import LocalStep
from fedguard.updates import ClientUpdates


class ModelReplacement(BadNets):
    r"""Train a patch backdoor near the global model, then scale it up to replace the aggregate.

    Bagdasaryan, Veit, Hua, Estrin and Shmatikov, "How To Backdoor Federated Learning", AISTATS
    2020. Scale n / f makes the plain mean over n clients of one cohort the coalition's mean model,
    as far as the honest updates cancel. The anomaly term of the loss enters through its gradient,
    ``(theta - G) / |theta - G|``. With `norm_bound` this is the paper's train-and-scale.

    Parameters
    ----------
    alpha : float
        Weight of the classification loss, above 0 and at most 1; 1 leaves the loss as it is.
    scale : float, optional
        Factor on the updates, above 0; n / f of the cohort if left out.
    norm_bound : float, optional
        Largest norm of a scaled update, in units of the weights, above 0; none if left out.
    **frame : Any
        Other options of `BadNets`.

    Notes
    -----
    .. math::
       \text{loss} = \alpha L + (1 - \alpha) \lVert \theta - G \rVert, \qquad
       d_i' = \min\left( s, \frac{B}{\lVert d_i \rVert} \right) d_i

    where L is the classification loss on stamped and clean rows, :math:`\theta` the local and G the
    global model, :math:`d_i` the update that member i trained, s the `scale` (n / f of the cohort
    if left out) and B the `norm_bound`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.model_replacement import ModelReplacement
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = ModelReplacement()
    >>> attack.craft(coalition, seen).tolist()
    [[6.0, 3.0]]
    """

    needs: ClassVar[frozenset[str]] = BadNets.needs | {"training"}
    tags: ClassVar[Tags | None] = Tags(
        edits="both", goal="backdoor", scope="pattern", knowledge="gray", variability="dynamic"
    )

    def __init__(
        self,
        *,
        alpha: float = 0.9,
        scale: float | None = None,
        norm_bound: float | None = None,
        **frame: Any,
    ) -> None:
        super().__init__(scale=1.0 if scale is None else scale, **frame)
        check_number("alpha", alpha, above=0.0, at_most=1.0)
        if norm_bound is not None:
            check_number("norm_bound", norm_bound, above=0.0)
        self.alpha = alpha
        self.norm_bound = norm_bound
        self._full_replacement = scale is None

    def local_step(self, step: LocalStep, update: Callable[[], None]) -> None:
        """Add the gradient of the anomaly term, then take the step; see `Attack.local_step`."""
        far = distance(step) if self.alpha < 1.0 else 0.0
        for parameter, start in zip(step.parameters, step.start, strict=True):
            if parameter.grad is None or self.alpha == 1.0:
                continue
            parameter.grad.mul_(self.alpha)
            if far > 0.0:
                pull = (parameter.detach() - start) / far
                parameter.grad.add_(pull, alpha=1.0 - self.alpha)
        update()

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) scaled deltas; see `Attack.craft`."""
        scale = self.scale
        if self._full_replacement:
            scale = max(knowledge.cohort_size, 1) / max(knowledge.num_malicious, 1)
        factors = coalition.deltas.new_full((len(coalition), 1), scale)
        if self.norm_bound is not None:
            for row, delta in enumerate(coalition.trainable):
                factors[row] = min(scale, self.norm_bound / max(norm(delta), 1e-30))
        return send(coalition, coalition.trainable * factors)
