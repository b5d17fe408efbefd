"""PGD: a backdoor trained inside a ball around the global model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from fedguard.attacks.badnets import BadNets
from fedguard.attacks.toolkit.projection import project
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.training.base import LocalStep


class Pgd(BadNets):
    r"""Train a patch backdoor and project every step back to the ball around the global model.

    So the update stays within epsilon and passes defences that bound norms.

    Wang et al., "Attack of the Tails: Yes, You Really Can Backdoor Federated Learning", NeurIPS
    2020; Sun, Kairouz, Suresh and McMahan, "Can You Really Backdoor Federated Learning?", arXiv
    2019. Wang et al. project every tenth step and at the end; a step does not know whether it is
    the last, so each is projected. `scale` multiplies afterwards (PGD with replacement).

    Parameters
    ----------
    epsilon : float
        Radius in units of the weights (Euclidean norm over all trainable parameters), above 0.
    **frame : Any
        Options of `BadNets`.

    Notes
    -----
    .. math::
       \theta \leftarrow G + (\theta - G)
       \min\left( 1, \frac{\varepsilon}{\lVert \theta - G \rVert} \right)

    after each step, where :math:`\theta` is the local and G the global model.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import LocalStep
    >>> from fedguard.attacks.pgd import Pgd
    >>> here, start = torch.nn.Parameter(torch.tensor([3.0, 4.0])), torch.zeros(2)
    >>> Pgd(epsilon=1.0).local_step(LocalStep([here], [start], None), lambda: None)
    >>> [round(value, 4) for value in here.tolist()]
    [0.6, 0.8]
    """

    needs: ClassVar[frozenset[str]] = BadNets.needs | {"training"}
    tags: ClassVar[Tags | None] = Tags(
        edits="both", goal="backdoor", scope="pattern", knowledge="gray", stealth="hidden"
    )

    def __init__(self, *, epsilon: float = 2.0, **frame: Any) -> None:
        super().__init__(**frame)
        check_number("epsilon", epsilon, above=0.0)
        self.epsilon = epsilon

    def local_step(self, step: LocalStep, update: Callable[[], None]) -> None:
        """Take the step, then project; see `Attack.local_step`."""
        update()
        project(step, self.epsilon)
