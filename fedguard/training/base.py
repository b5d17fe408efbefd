"""`TrainingRule`: how a client trains, from the model it receives to the one it sends back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedguard.errors import ConfigurationError, check_number
from fedguard.randomness import generator
from fedguard.training.shaping import PLAIN, Shaping


@dataclass(frozen=True)
class TrainingSettings:
    """Hyper-parameters of local training.

    Attributes
    ----------
    lr : float
        Learning rate, at least 0; 0 changes nothing.
    momentum : float
        0 to below 1.
    weight_decay : float
        L2 penalty, at least 0.
    local_epochs : int
        Passes over the shard per round, at least 1.
    batch_size : int
        Examples per step, at least 1; the last batch of an epoch may be smaller.
    """

    lr: float
    momentum: float
    weight_decay: float
    local_epochs: int
    batch_size: int


@dataclass
class LocalStep:
    """One optimiser step of a malicious client's local training.

    Attributes
    ----------
    parameters : sequence of Tensor
        The model's trainable parameters; their ``grad`` holds the step's gradients.
    start : sequence of Tensor
        The global model's parameters at the beginning of the round, same order.
    last_update : sequence of Tensor or None
        What the server added in the round before, same order; None in the first round.
    """

    parameters: Sequence[Tensor]
    start: Sequence[Tensor]
    last_update: Sequence[Tensor] | None


@dataclass
class Local:
    """One client's training in one round, as its rule sees it.

    Attributes
    ----------
    module : nn.Module
        The model, in training mode; its parameters are views of `vector`.
    vector, gradient : Tensor
        (T,) trainable parameters and their gradient; both are changed in place.
    start : Tensor
        (T,) the parameters that the server sent.
    settings : TrainingSettings
        Hyper-parameters of this client in this round; `TrainingRule.begin` may replace them.
    client, server_round, rounds : int
        Who trains, in which round (from 1), of how many.
    seed : int
        Seed of the run.
    config : mapping of str to Any
        What the server's message says to this client.
    memory : dict of str to Tensor
        What the client keeps from round to round; survives ``--resume`` on every engine.
    x, y, rows : Tensor
        Tensors that hold the client's examples, and the rows of the current batch in them.
    velocity : Tensor
        (T,) momentum of this round, 0 at its beginning.
    scratch : dict of str to Any
        What the rule keeps for this round alone.
    """

    module: nn.Module
    vector: Tensor
    gradient: Tensor
    start: Tensor
    settings: TrainingSettings
    client: int
    server_round: int
    rounds: int
    seed: int
    x: Tensor
    y: Tensor
    rows: Tensor
    velocity: Tensor
    config: Mapping[str, Any] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)
    scratch: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def rng(self) -> torch.Generator:
        """A stream of this client and round for the rule's own draws."""
        return generator(self.seed, self.server_round, self.client, "training rule")


SETTING_KEYS = {
    "lr": "lr",
    "momentum": "momentum",
    "weight-decay": "weight_decay",
    "local-epochs": "local_epochs",
    "batch-size": "batch_size",
}
"""Keys of a server's message that stand for a hyper-parameter, by the field that each sets."""


HOOKS = ("begin", "loss", "step", "end")
"""Methods of a rule by which training becomes more than SGD."""


class TrainingRule:
    """How a client trains; a rule overrides the hooks that it needs.

    For every round: `settings_for`, `begin`, then per batch `loss` and `step`, then `end`. Plain
    SGD is what `update`, handed to `step`, does.
    """

    reads: ClassVar[frozenset[str]] = frozenset(SETTING_KEYS)
    """Keys of the server's message that the rule obeys; any other is refused or reported."""

    remembers: ClassVar[bool] = False
    """Whether clients keep a memory between rounds."""

    shaping: Shaping = PLAIN
    """What becomes of each row's loss before `loss` sees it; for tasks with one class per row."""
    spans: ClassVar[bool] = False
    """Whether a hook reads how many rounds there are (``local.rounds``), so that a finished run
    cannot go on for more; what `settings_for` does with it is found out by asking."""

    def settings_for(
        self, settings: TrainingSettings, config: Mapping[str, Any], server_round: int, rounds: int
    ) -> TrainingSettings:
        """Return a client's hyper-parameters in a round: the configured ones, then the server's.

        Raises
        ------
        ConfigurationError
            If the server's message sets one to what it cannot be.
        """
        changes: dict[str, Any] = {}
        for key, name in SETTING_KEYS.items():
            if key in config and key in self.reads:
                changes[name] = _checked(key, config[key])
        return replace(settings, **changes) if changes else settings

    def plain(self, config: Mapping[str, Any]) -> bool:
        """Return whether a round is plain SGD, so that a batched executor may serve it."""
        return False

    def private(self, module: nn.Module) -> frozenset[str]:
        """Return the names of tensors that stay with each client; none of them by default.

        A rule with private tensors sets `remembers`: clients keep them from round to round.
        """
        return frozenset()

    def begin(self, local: Local) -> None:
        """Prepare a round, before its first batch."""

    def loss(self, local: Local, losses: Tensor) -> Tensor:
        """Return the scalar to descend, from the (B,) losses of a batch's rows."""
        return losses.mean()

    def step(self, local: Local, update: Callable[[], None]) -> None:
        """Take one step; `update` applies ``local.gradient`` by SGD."""
        update()

    def end(self, local: Local) -> None:
        """Finish a round, after its last batch."""


def _checked(key: str, value: Any) -> Any:
    """Return a hyper-parameter that a server sent, as the type that it must have."""
    field_name = f"config.{key}"
    if key == "lr":
        check_number(field_name, value, at_least=0.0, at_most=1000.0)
        return float(value)
    if key == "momentum":
        check_number(field_name, value, at_least=0.0, below=1.0)
        return float(value)
    if key == "weight-decay":
        check_number(field_name, value, at_least=0.0, at_most=10.0)
        return float(value)
    check_number(field_name, value, at_least=1)
    if value != int(value):
        raise ConfigurationError(field_name, value, "a whole number >= 1")
    return int(value)
