"""ALIE: a little is enough."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send, spread, visible
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


def alie_z(cohort_size: int, num_malicious: int) -> float:
    """Return the paper's largest shift z that still leaves the coalition a majority.

    ``z = Phi^-1((n - f - s) / (n - f))``, ``s = floor(n / 2 + 1) - f`` honest supporters.

    At least one supporter is counted, and a negative z (small cohorts with few attackers, where
    the formula says that no shift is safe) becomes 0.

    Parameters
    ----------
    cohort_size : int
        n, clients in the round.
    num_malicious : int
        f of them.
    """
    honest = max(cohort_size - num_malicious, 1)
    supporters = max(cohort_size // 2 + 1 - num_malicious, 1)
    share = (honest - supporters) / honest
    return max(0.0, float(torch.special.ndtri(torch.tensor(share, dtype=torch.float64))))


class Alie(Attack):
    r"""All malicious clients send the mean, shifted by a fraction of the honest spread.

    Baruch, Baruch and Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed
    Learning", NeurIPS 2019. sigma is the population standard deviation; where one update is
    visible, its absolute values stand in for sigma.

    Parameters
    ----------
    z : float, optional
        Shift in standard deviations, at least 0; from the cohort's n and f if left out (see
        `alie_z`; it may be 0 in small cohorts, which makes the attack harmless).

    Notes
    -----
    .. math::
       d' = \mu - z \sigma, \qquad
       z = \max\left( 0, \Phi^{-1}\left( \frac{n - f - s}{n - f} \right) \right), \qquad
       s = \max\left( 1, \left\lfloor \frac{n}{2} + 1 \right\rfloor - f \right)

    where :math:`\mu` and :math:`\sigma` are mean and standard deviation of the visible honest
    updates per coordinate, n the clients of the round, f of them malicious, and :math:`\Phi` the
    normal distribution function; z is as given where it is given.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.alie import Alie
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = Alie(z=1.5)
    >>> attack.craft(coalition, seen).tolist()
    [[0.5, 4.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="gray", stealth="hidden", variability="dynamic"
    )

    def __init__(self, *, z: float | None = None) -> None:
        if z is not None:
            check_number("z", z, at_least=0.0)
        self.z = z

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas, one vector for all; see `Attack.craft`."""
        rows = visible(coalition, knowledge)
        if not len(rows):
            return coalition.deltas
        z = alie_z(knowledge.cohort_size, knowledge.num_malicious) if self.z is None else self.z
        return send(coalition, rows.mean(dim=0) - z * spread(rows))
