"""FedProx: a proximal term holds a client near the model that it received."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedguard.errors import check_number
from fedguard.training.sgd import PROXIMAL_KEY, Sgd, proximal_weight


class FedProx(Sgd):
    r"""SGD with a proximal term that holds a client near the model that it received.

    Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated Optimization in Heterogeneous
    Networks", MLSys 2020. A ``proximal-mu`` in the server's message wins over `mu`.

    Parameters
    ----------
    mu : float
        Weight of the proximal term, at least 0.
    **sgd : Any
        Schedule and loss; see `Sgd`.

    Notes
    -----
    .. math::
       \ell(w) + \frac{\mu}{2} \lVert w - w_G \rVert^2

    where :math:`\ell` is the batch's loss, w the local model and :math:`w_G` the one that the
    server sent.
    """

    def __init__(self, *, mu: float = 0.01, **sgd: Any) -> None:
        super().__init__(**sgd)
        check_number("mu", mu, at_least=0.0)
        self.mu = mu

    def proximal(self, config: Mapping[str, Any]) -> float:
        """Return the server's mu where it sends one, the rule's own otherwise."""
        return proximal_weight(config) if PROXIMAL_KEY in config else self.mu
