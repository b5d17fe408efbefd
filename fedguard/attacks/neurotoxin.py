"""Neurotoxin: a backdoor in the coordinates that honest clients hardly move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.attacks.badnets import BadNets
from fedguard.attacks.toolkit.projection import project
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.training.base import LocalStep


class Neurotoxin(BadNets):
    r"""Train a patch backdoor only in coordinates where the last aggregate was small.

    Coordinates are ranked over all trainable parameters together.

    Zhang et al., "Neurotoxin: Durable Backdoors in Federated Learning", ICML 2022. The magnitude
    is ranked, not the signed value; coordinates that tie with the last one kept are kept. Masked
    coordinates stay at the global model's values, also where the client trains with weight decay.
    In the first round there is no g, and nothing is masked.

    Parameters
    ----------
    keep : float
        Share of coordinates the backdoor may use, above 0 and at most 1; 0.95 in the paper.
    epsilon : float, optional
        Radius of a projection after each step as in `Pgd`, above 0; none if left out.
    **frame : Any
        Options of `BadNets`.

    Notes
    -----
    .. math::
       \nabla \leftarrow m \odot \nabla, \qquad
       m_j = \begin{cases} 1 & \text{if } |g_j| \text{ is among the share } q \text{ of smallest} \\
       0 & \text{otherwise} \end{cases}

    in every step of the backdoor's training, where g is what the server added in the round before
    and q is `keep`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import LocalStep
    >>> from fedguard.attacks.neurotoxin import Neurotoxin
    >>> start = torch.zeros(2)
    >>> here = torch.nn.Parameter(torch.zeros(2))
    >>> here.grad = torch.tensor([1.0, 1.0])
    >>> last = torch.tensor([9.0, 0.1])
    >>> sgd = torch.optim.SGD([here], lr=0.5)
    >>> Neurotoxin(keep=0.5).local_step(LocalStep([here], [start], [last]), sgd.step)
    >>> here.tolist()
    [0.0, -0.5]
    """

    needs: ClassVar[frozenset[str]] = BadNets.needs | {"training"}
    tags: ClassVar[Tags | None] = Tags(
        edits="both",
        goal="backdoor",
        scope="pattern",
        knowledge="gray",
        stealth="hidden",
        variability="dynamic",
    )

    def __init__(self, *, keep: float = 0.95, epsilon: float | None = None, **frame: Any) -> None:
        super().__init__(**frame)
        check_number("keep", keep, above=0.0, at_most=1.0)
        if epsilon is not None:
            check_number("epsilon", epsilon, above=0.0)
        self.keep = keep
        self.epsilon = epsilon
        self._masked: tuple[LocalStep, list[Tensor]] | None = None

    def local_step(self, step: LocalStep, update: Callable[[], None]) -> None:
        """Mask the gradients, then take the step; see `Attack.local_step`."""
        if step.last_update is None:
            update()
        else:
            masks = self._masks(step, step.last_update)
            for parameter, mask in zip(step.parameters, masks, strict=True):
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)
            update()
            _hold(step, masks)
        if self.epsilon is not None:
            project(step, self.epsilon)

    def _masks(self, step: LocalStep, last_update: Sequence[Tensor]) -> list[Tensor]:
        """Return the masks of this local training, computed in its first step."""
        if self._masked is None or self._masked[0] is not step:
            self._masked = (step, small_coordinates(last_update, self.keep))
        return self._masked[1]


def _hold(step: LocalStep, masks: Sequence[Tensor]) -> None:
    """Put what is masked back where the round began: weight decay moves it without a gradient."""
    with torch.no_grad():
        for here, start, mask in zip(step.parameters, step.start, masks, strict=True):
            here.copy_(torch.where(mask > 0, here, start))


def small_coordinates(update: Sequence[Tensor], keep: float) -> list[Tensor]:
    """Return masks, 1 on the `keep` share of coordinates with the smallest magnitude over all.

    Parameters
    ----------
    update : sequence of Tensor
        What to rank.
    keep : float
        Share, above 0 and at most 1; at least one coordinate is kept.
    """
    magnitude = torch.cat([part.detach().abs().flatten() for part in update])
    count = max(1, round(keep * len(magnitude)))
    limit = magnitude.kthvalue(count).values
    return [(part.detach().abs() <= limit).to(part.dtype) for part in update]
