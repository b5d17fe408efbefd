"""Gaussian noise in the place of an update."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


class Gaussian(Attack):
    r"""Each malicious client sends independent Gaussian noise instead of its update.

    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    NeurIPS 2017, with a standard deviation of 200. The default of 1 is small beside that and
    still far above the size of trained weights, so plain averaging is ruined within a few rounds.

    Parameters
    ----------
    std : float
        Standard deviation per coordinate, above 0; in units of the weights, or of the root mean
        square of the client's own honest update if `relative`.
    relative : bool
        Whether `std` is relative to the honest update; an honest update of zeros then gives zeros.

    Notes
    -----
    .. math::
       d_i' \sim \mathcal{N}(0, \sigma^2 I), \qquad \text{relative:} \;
       d_i' \sim \mathcal{N}\left( 0, \sigma^2 \frac{\lVert d_i \rVert^2}{T} I \right)

    where :math:`d_i` is member i's honest update of T coordinates, and :math:`\sigma` is `std`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.gaussian import Gaussian
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[0.0, 0.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = Gaussian(std=2.0, relative=True)
    >>> attack.craft(coalition, seen).tolist()
    [[0.0, 0.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(edits="model")

    def __init__(self, *, std: float = 1.0, relative: bool = False) -> None:
        check_number("std", std, above=0.0)
        self.std = std
        self.relative = relative

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) noise; see `Attack.craft`."""
        honest = coalition.trainable
        noise = torch.randn(honest.shape, generator=knowledge.generator) * self.std
        if self.relative and honest.numel():
            rms = honest.to(torch.float64).square().mean(dim=1, keepdim=True).sqrt()
            noise *= rms.to(torch.float32)
        return send(coalition, noise)
