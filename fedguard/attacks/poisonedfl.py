"""PoisonedFL: fake clients that pull one way in every round, as hard as the server lets them."""

from __future__ import annotations

from typing import ClassVar

import torch
from scipy.stats import binom
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import norm, send
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.randomness import SERVER, generator
from fedguard.updates import ClientUpdates

_QUANTILE = 0.99
"""Level of the test on whether the model has moved the attacker's way."""


def fixed_signs(size: int, sign_seed: int) -> Tensor:
    """Return (size,) signs, -1 or 1, that stay the same for a whole run."""
    stream = generator(sign_seed, 0, SERVER, "poisonedfl signs")
    return 2.0 * torch.randint(0, 2, (size,), generator=stream).to(torch.float32) - 1.0


class PoisonedFL(Attack):
    r"""Push the model along one random direction in all rounds, without any client's update.

    All send the same vector. Every `check_every` rounds the coordinates are counted in which the
    model has moved the attacker's way since the last count; where they are not more than the 99 %
    quantile of chance, the next vectors are shorter.

    A reading of Xie, Fang and Gong, "Model Poisoning Attacks to Federated Learning via Multi-Round
    Consistency", CVPR 2025, by its formulas. In the first round nothing is known of h, and the
    honest updates are sent; where nothing was sent before, u is zero.

    Parameters
    ----------
    scale : float
        lambda of the first rounds, above 0; 8 in the paper.
    check_every : int
        Rounds between two counts, at least 1; 50 in the paper.
    decay : float
        Factor on lambda after a failed count, above 0 and at most 1; 0.7 in the paper.
    floor : float
        Least lambda, above 0; 0.5 in the paper.
    sign_seed : int
        Which signs, at least 0.

    Notes
    -----
    .. math::
       d' = \lambda \lVert h \rVert \frac{e}{\lVert e \rVert} \odot s, \qquad
       e = \left| h - \frac{\lVert h \rVert}{\lVert u \rVert} u \right|, \qquad
       h = w_t - w_{t-1}

    where s are fixed random signs, :math:`w_t` is the global model, and u what the coalition sent
    in the round before (that term is 0 where nothing was sent); after a count that chance explains,
    :math:`\lambda \leftarrow \max(\rho \lambda, \min(\lambda, \lambda_{\min}))` with :math:`\rho`
    the `decay` and :math:`\lambda_{\min}` the `floor`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.poisonedfl import PoisonedFL, fixed_signs
    >>> from fedguard.updates import ClientUpdates
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> last = torch.tensor([3.0, 4.0])
    >>> seen = Knowledge("partial", coalition, 3, 1, 2, torch.Generator(), last_update=last)
    >>> fixed_signs(2, 3).tolist()
    [1.0, -1.0]
    >>> PoisonedFL(scale=2.0, sign_seed=3).craft(coalition, seen).tolist()
    [[6.0, -8.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="gray", stealth="hidden", variability="dynamic"
    )

    def __init__(
        self,
        *,
        scale: float = 8.0,
        check_every: int = 50,
        decay: float = 0.7,
        floor: float = 0.5,
        sign_seed: int = 0,
    ) -> None:
        check_number("scale", scale, above=0.0)
        check_number("check_every", check_every, at_least=1)
        check_number("decay", decay, above=0.0, at_most=1.0)
        check_number("floor", floor, above=0.0)
        check_number("sign_seed", sign_seed, at_least=0)
        self.scale = scale
        self.check_every = check_every
        self.decay = decay
        self.floor = floor
        self.sign_seed = sign_seed
        self._memory: dict[str, Tensor] = {}

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas, one vector for all; see `Attack.craft`."""
        if knowledge.last_update is None:
            return coalition.deltas
        size = coalition.layout.num_trainable
        signs = fixed_signs(size, self.sign_seed)
        change = knowledge.last_update[:size].to("cpu", torch.float64)
        length = norm(change)
        factor = self._factor(coalition, knowledge, signs)
        gaps = change.clone()
        sent = self._memory.get("sent")
        if sent is not None and norm(sent) > 0.0:
            gaps -= sent.to(torch.float64) * (length / norm(sent))
        gaps = gaps.abs()
        direction = gaps / max(norm(gaps), 1e-300)
        crafted = (factor * length * direction * signs).to(torch.float32)
        self._memory["sent"] = crafted
        return send(coalition, crafted.to(coalition.deltas.device))

    def _factor(self, coalition: ClientUpdates, knowledge: Knowledge, signs: Tensor) -> float:
        """Return lambda, after the count of the rounds in which there is one."""
        here = coalition.global_vector[: len(signs)].detach().to("cpu", torch.float32)
        known = self._memory.get("factor")
        if known is None or "mark" not in self._memory:
            factor = self.scale
            self._mark(here, knowledge.server_round, factor)
            return factor
        factor = float(known)
        if knowledge.server_round - int(self._memory["mark_round"]) >= self.check_every:
            moved = int(((here - self._memory["mark"]).sign() == signs).sum())
            if moved <= binom.ppf(_QUANTILE, len(signs), 0.5):
                factor = max(self.decay * factor, min(self.floor, factor))
            self._mark(here, knowledge.server_round, factor)
        return factor

    def _mark(self, here: Tensor, server_round: int, factor: float) -> None:
        self._memory["mark"] = here.clone()
        self._memory["mark_round"] = torch.tensor(server_round)
        self._memory["factor"] = torch.tensor(factor, dtype=torch.float64)

    def state(self) -> dict[str, Tensor]:
        """Return what was sent last, lambda, and the model and round of the last count."""
        return dict(self._memory)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take it back; see `Attack.load_state`."""
        self._memory = dict(state)
