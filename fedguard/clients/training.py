"""Local training: what every client, honest or malicious, does with its shard in one round."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedguard.attacks.base import Attack, LocalStep
from fedguard.clients.federation import Federation
from fedguard.layout import ParameterLayout
from fedguard.models.flat import FlatModel
from fedguard.randomness import SERVER, generator, stream_seed


@dataclass(frozen=True)
class TrainingSettings:
    """Hyper-parameters of local SGD.

    Attributes
    ----------
    lr : float
        Learning rate, above 0.
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


class _Unscaled(nn.Module):
    """A model that takes examples on their unscaled values."""

    def __init__(self, module: nn.Module, federation: Federation) -> None:
        super().__init__()
        self.module = module
        # A function, unlike a bound method, is not followed when an attack copies the model.
        self._normalise: Callable[[Tensor], Tensor] = lambda x: federation.normalise(x)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module(self._normalise(x))
        return logits


class ClientTrainer:
    """Trains any client of a federation, one at a time, on one reused model.

    For client k in round t:

    1. load the global vector into the model;
    2. take the shard (poisoned where a malicious client attacks in this round);
    3. run SGD over batches drawn from the stream (seed, t, k, "batches");
    4. write model minus global into the client's row.

    Parameters
    ----------
    module : nn.Module
        The model, on the device to train on.
    federation : Federation
        Data and roles.
    settings : TrainingSettings
        Local SGD.
    seed : int
        Seed of the batch order.
    """

    def __init__(
        self, module: nn.Module, federation: Federation, settings: TrainingSettings, seed: int
    ) -> None:
        self.model = FlatModel(module)
        self.federation = federation
        self.settings = settings
        self.seed = seed
        self.draws = _draws_random_numbers(module, federation)
        self._momentum = torch.zeros_like(self.model.vector)
        self._prepared = 0

    @property
    def layout(self) -> ParameterLayout:
        """Layout of the model's vector."""
        return self.model.layout

    def twin(self, settings: TrainingSettings | None = None) -> ClientTrainer:
        """Return a trainer with a model of its own and the same data; for another thread."""
        module = copy.deepcopy(self.model.module)
        return ClientTrainer(module, self.federation, settings or self.settings, self.seed)

    def train(
        self,
        client: int,
        server_round: int,
        global_vector: Tensor,
        out: Tensor,
        *,
        attacking: bool = False,
        last_update: Tensor | None = None,
    ) -> tuple[int, float]:
        """Train one client and write its delta into `out`.

        Parameters
        ----------
        client : int
            Client id.
        server_round : int
            Current round, from 1.
        global_vector : Tensor
            (D,) the model it received, on the trainer's device.
        out : Tensor
            (D,) where the delta goes.
        attacking : bool
            Whether malicious clients attack in this round.
        last_update : Tensor, optional
            (D,) what the server added in the round before.

        Returns
        -------
        tuple of int and float
            Number of examples and mean training loss over the last epoch.
        """
        self.prepare_for(attacking, server_round, global_vector)
        x, y, own = self.federation.source(client, attacking=attacking)
        rows = torch.arange(len(y), device=y.device) if own is None else own
        self.model.load(global_vector)
        self.model.module.train()
        attack = self.step_attack(client, attacking)
        step = self._local_step(global_vector, last_update) if attack is not None else None
        with self._noise_of(client, server_round):
            loss = self._epochs(x, y, rows, client, server_round, attack, step)
        self.model.delta_from(global_vector, out)
        return len(rows), loss

    @contextmanager
    def _noise_of(self, client: int, server_round: int) -> Iterator[None]:
        """Give a network that draws random numbers (dropout) the client's own stream."""
        if not self.draws:
            yield
            return
        device = self.model.vector.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(stream_seed(self.seed, server_round, client, "network noise"))
            yield

    def step_once(self, start: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
        """Take one plain step from `start` (D,) on one batch and write the change into `out`."""
        self.model.load(start)
        self.model.module.train()
        self._momentum.zero_()
        self.model.gradient.zero_()
        loss = functional.cross_entropy(self.model.module(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        self._update()
        self.model.delta_from(start, out)

    def prepare_for(self, attacking: bool, server_round: int, global_vector: Tensor) -> None:
        """Call `prepare` if malicious clients attack in this round."""
        if attacking:
            self.prepare(server_round, global_vector)

    def prepare(self, server_round: int, global_vector: Tensor) -> None:
        """Let an attack that reads the global model read it, once per server round.

        It sees the coalition's clean examples on their unscaled values. What it poisoned before is
        poisoned anew.
        """
        attack, federation = self.federation.attack, self.federation
        if "model" not in attack.needs or server_round == self._prepared:
            return
        self._prepared = server_round
        self.model.load(global_vector)
        x, y = federation.coalition_examples()
        stream = generator(self.seed, server_round, SERVER, "attack model")
        attack.prepare(_Unscaled(self.model.module, federation), x, y, stream)
        federation.forget_poisoned()

    def step_attack(self, client: int, attacking: bool) -> Attack | None:
        """Return the attack if it changes this client's local steps."""
        attack = self.federation.attack
        changes_steps = attacking and client in self.federation.malicious
        return attack if changes_steps and "training" in attack.needs else None

    def _local_step(self, global_vector: Tensor, last_update: Tensor | None) -> LocalStep:
        return LocalStep(
            parameters=self.model.parameters,
            start=self.model.views(global_vector),
            last_update=None if last_update is None else self.model.views(last_update),
        )

    def _epochs(
        self,
        x: Tensor,
        y: Tensor,
        own: Tensor,
        client: int,
        server_round: int,
        attack: Attack | None,
        step: LocalStep | None,
    ) -> float:
        stream = generator(self.seed, server_round, client, "batches")
        self._momentum.zero_()
        total = torch.zeros((), device=x.device)
        for _ in range(self.settings.local_epochs):
            total.zero_()
            order = own[torch.randperm(len(own), generator=stream).to(x.device)]
            for rows in torch.split(order, self.settings.batch_size):
                loss = functional.cross_entropy(self.model.module(x[rows]), y[rows])
                self.model.gradient.zero_()
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach() * len(rows)
                if attack is None or step is None:
                    self._update()
                else:
                    attack.local_step(step, self._update)
        return float(total / len(own))

    def _update(self) -> None:
        """Take one SGD step from the flat gradient."""
        gradient, vector = self.model.gradient, self.model.vector
        if self.settings.weight_decay:
            gradient.add_(vector, alpha=self.settings.weight_decay)
        if self.settings.momentum:
            gradient = self._momentum.mul_(self.settings.momentum).add_(gradient)
        vector.add_(gradient, alpha=-self.settings.lr)


def _draws_random_numbers(module: nn.Module, federation: Federation) -> bool:
    """Return whether a forward pass in training mode draws from PyTorch's random state."""
    device = next(module.parameters()).device
    twin = copy.deepcopy(module).train()
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad():
        before = torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in cuda)
        twin(torch.zeros(2, *federation.dataset.input_shape, device=device))
        after = torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in cuda)
    return not all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
