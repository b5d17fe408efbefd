"""SGD: plain local training, as FedAvg's clients do it."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from torch import nn

from fedguard.errors import ConfigurationError, check_choice, check_number, check_unread, nearest
from fedguard.layout import ParameterLayout
from fedguard.training.base import HOOKS, SETTING_KEYS, Local, TrainingRule, TrainingSettings
from fedguard.training.shaping import Shaping

Schedule = Literal["constant", "cosine", "step"]

PROXIMAL_KEY = "proximal-mu"
"""What Flower's FedProx calls the weight of the proximal term in its messages."""


class Sgd(TrainingRule):
    r"""Mini-batch SGD with momentum, weight decay, a schedule, an optional proximal term and loss.

    Momentum is PyTorch's; the proximal term is there if the server's message carries
    ``proximal-mu``, as that of Flower's FedProx does.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    AISTATS 2017.

    Parameters
    ----------
    schedule : {"constant", "cosine", "step"}
        Of the learning rate over rounds: as it is; ``lr (1 + cos(pi (t - 1) / R)) / 2`` in round t
        of R; or times `gamma` after every `every` rounds.
    every : int
        Rounds between two steps of the ``step`` schedule, at least 1.
    gamma : float
        Factor of a step, above 0 to 1.
    focal : float
        Focusing parameter of the focal loss, 0 to 10; 0 for cross-entropy.
    balance : float
        Weight of rare classes, 0 to 1: 0 weighs rows alike, 1 classes alike; see `Shaping`.
    personal : str or list of str
        Names of the tensors that stay with the client, ``*`` for any part of a name; none.

    Notes
    -----
    .. math::
       v \leftarrow \rho v + g + \mu (w - w_G) + \lambda w, \qquad w \leftarrow w - \eta_t v

    in round t, from v = 0, where g is the batch's gradient, w the local model and :math:`w_G` the
    one that the server sent, :math:`\rho` the momentum, :math:`\lambda` the weight decay,
    :math:`\eta_t` the schedule's learning rate, and :math:`\mu` the server's ``proximal-mu``, else
    0.
    """

    reads: ClassVar[frozenset[str]] = frozenset({*SETTING_KEYS, PROXIMAL_KEY})

    def __init__(
        self,
        *,
        schedule: Schedule = "constant",
        every: int = 10,
        gamma: float = 0.5,
        focal: float = 0.0,
        balance: float = 0.0,
        personal: str | tuple[str, ...] = (),
    ) -> None:
        check_choice("schedule", schedule, ("constant", "cosine", "step"))
        check_number("every", every, at_least=1)
        check_number("gamma", gamma, above=0.0, at_most=1.0)
        if schedule != "step":
            check_unread(f"schedule {schedule}", every=(every, 10), gamma=(gamma, 0.5))
        self.schedule, self.every, self.gamma = schedule, every, gamma
        self.shaping = Shaping(focal, balance)
        self.personal = (personal,) if isinstance(personal, str) else tuple(personal)

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        """Whether a part of the model stays with the client."""
        return bool(self.personal)

    def private(self, module: nn.Module) -> frozenset[str]:
        """Return the names of tensors that the patterns of `personal` name.

        Raises
        ------
        ConfigurationError
            If a pattern names none.
        """
        names = ParameterLayout.from_module(module).names
        found: set[str] = set()
        for pattern in self.personal:
            matched = fnmatch.filter(names, pattern)
            if not matched:
                told = nearest(pattern, names) + ", ".join(names)
                raise ConfigurationError("training.personal", pattern, told)
            found.update(matched)
        return frozenset(found)

    def settings_for(
        self, settings: TrainingSettings, config: Mapping[str, Any], server_round: int, rounds: int
    ) -> TrainingSettings:
        """Return a round's hyper-parameters, the schedule applied; see `TrainingRule`."""
        found = super().settings_for(settings, config, server_round, rounds)
        factor = self.factor(server_round, rounds)
        return found if factor == 1.0 else replace(found, lr=found.lr * factor)

    def factor(self, server_round: int, rounds: int) -> float:
        """Return what the schedule multiplies the learning rate by in a round, from 1."""
        done = max(server_round - 1, 0)
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done / max(rounds, 1)))
        if self.schedule == "step":
            return float(self.gamma ** (done // self.every))
        return 1.0

    def proximal(self, config: Mapping[str, Any]) -> float:
        """Return mu, the weight of the proximal term in a round."""
        return proximal_weight(config)

    def plain(self, config: Mapping[str, Any]) -> bool:
        """Return whether there is no proximal term, no memory, and no hook of a subclass's own."""
        own = any(getattr(type(self), hook) is not getattr(Sgd, hook) for hook in HOOKS)
        return not own and not self.remembers and self.proximal(config) == 0.0

    def step(self, local: Local, update: Callable[[], None]) -> None:
        """Add the proximal term's gradient, where there is one, and descend."""
        mu = self.proximal(local.config)
        if mu:
            local.gradient.add_(local.vector - local.start, alpha=mu)
        update()


def proximal_weight(config: Mapping[str, Any]) -> float:
    """Return the ``proximal-mu`` of a server's message, 0 where it has none.

    Raises
    ------
    ConfigurationError
        If it is no number of at least 0.
    """
    value = config.get(PROXIMAL_KEY, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"config.{PROXIMAL_KEY}", value, "a number of at least 0")
    check_number(f"config.{PROXIMAL_KEY}", value, at_least=0.0)
    return float(value)
