"""Local training: what every client, honest or malicious, does with its shard in one round."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from logging import WARNING
from typing import Any

import torch
from flwr.common.logger import log
from torch import Tensor, nn

from fedguard.attacks.base import Attack
from fedguard.clients.federation import Federation
from fedguard.clients.personal import OWN, PersonalParts
from fedguard.layout import ParameterLayout
from fedguard.models.flat import FlatModel
from fedguard.models.trial import draws_random_numbers
from fedguard.randomness import SERVER, generator, stream_seed
from fedguard.training.base import Local, LocalStep, TrainingRule, TrainingSettings
from fedguard.training.sgd import Sgd

__all__ = ["ClientTrainer", "TrainingSettings"]

NOTHING: Mapping[str, Any] = {}
"""A server's message that says nothing about training."""


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
    3. let the training rule run over batches drawn from the stream (seed, t, k, "batches");
    4. write model minus global into the client's row.

    Where the rule leaves tensors with each client, the global vector holds the others alone: the
    client's own part is put beside it in step 1 and kept in its memory after step 4.

    Parameters
    ----------
    module : nn.Module
        The model, on the device to train on.
    federation : Federation
        Data, task and roles.
    settings : TrainingSettings
        Hyper-parameters.
    seed : int
        Seed of the batch order.
    rule : TrainingRule, optional
        How a client trains; plain SGD if left out.
    rounds : int
        Rounds of the run, for rules with a schedule.

    Attributes
    ----------
    memories : dict of int to (dict of str to Tensor)
        What each client keeps from round to round, where the rule remembers.
    least : int
        Fewest rows of a batch: 2 where BatchNorm1d normalises over it, which one row cannot be.
        A smaller last batch of an epoch is dropped, by every executor alike.
    left_out : dict of int to Tensor
        Positions in a client's shard that take no part in its training, such as forgotten rows.
    personal : PersonalParts or None
        What stays with each client, if anything does.
    """

    def __init__(
        self,
        module: nn.Module,
        federation: Federation,
        settings: TrainingSettings,
        seed: int,
        rule: TrainingRule | None = None,
        rounds: int = 1,
    ) -> None:
        self.rule = rule or Sgd()
        private = self.rule.private(module)
        self.model = FlatModel(module)
        self.personal = PersonalParts(self.model.layout, private) if private else None
        # What a client's own part is before it has trained; the same in every process.
        self._first = self.model.whole_vector() if private else torch.empty(0)
        self.federation = federation
        self.settings = settings
        self.seed = seed
        self.rounds = rounds
        self.memories: dict[int, dict[str, Tensor]] = {}
        self.left_out: dict[int, Tensor] = {}
        self._reported: set[str] = set()
        sample = federation.task.sample(federation.dataset.input_shape, 2)
        self.draws = draws_random_numbers(module, sample)
        self.least = 2 if any(isinstance(m, nn.BatchNorm1d) for m in module.modules()) else 1
        self._velocity = torch.zeros_like(self.model.vector)
        self._prepared = 0

    @property
    def layout(self) -> ParameterLayout:
        """Layout of the global vector: of the model, without what stays with each client."""
        return self.model.layout if self.personal is None else self.personal.shared

    def global_vector(self) -> Tensor:
        """Return a (D,) copy of what the model shares, as it is."""
        whole = self.model.whole_vector()
        return whole if self.personal is None else self.personal.shared_of(whole)

    def own_part(self, client: int | None) -> Tensor:
        """Return a client's own part; the first one for None and who has none yet."""
        assert self.personal is not None
        memory = self.memories.get(client, {}) if client is not None else {}
        found = memory.get(OWN)
        return self.personal.own_of(self._first) if found is None else found

    def load_for(self, client: int | None, vector: Tensor) -> None:
        """Load a (D,) global vector into the model, beside the own part of a client."""
        self.model.load(self._whole(client, vector))

    def _whole(self, client: int | None, vector: Tensor) -> Tensor:
        if self.personal is None:
            return vector
        return self.personal.whole(vector, self.own_part(client))

    def twin(self, settings: TrainingSettings | None = None) -> ClientTrainer:
        """Return a trainer with a model of its own and the same data; for another thread."""
        module = copy.deepcopy(self.model.module)
        chosen = settings or self.settings
        found = ClientTrainer(module, self.federation, chosen, self.seed, self.rule, self.rounds)
        found.follow(self)
        found._first = self._first
        found.settings = chosen
        return found

    def follow(self, other: ClientTrainer) -> None:
        """Train as another trainer does: its settings, its clients' memories, what it prepared."""
        self.settings, self._prepared = other.settings, other._prepared
        self.memories, self.left_out = other.memories, other.left_out

    def detach(self) -> None:
        """Keep what a client that was given up still writes away from everybody else."""
        self.memories = dict(self.memories)

    def report_unread(self, configs: Iterable[Mapping[str, Any]]) -> None:
        """Log, once per key, what a server's messages say and the training rule does not read."""
        said = {key for config in configs for key in config}
        for key in sorted(said - self.rule.reads - self._reported):
            self._reported.add(key)
            rule, known = type(self.rule).__name__, ", ".join(sorted(self.rule.reads))
            log(WARNING, "clients do not obey %r: training %s reads %s", key, rule, known)

    def settings_for(self, config: Mapping[str, Any], server_round: int) -> TrainingSettings:
        """Return the hyper-parameters of a client whose message says `config`."""
        return self.rule.settings_for(self.settings, config, server_round, self.rounds)

    def data_of(self, client: int, *, attacking: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a client's training data as `Federation.indexed` does, rows left out aside."""
        gone = self.left_out.get(client)
        if gone is None or not len(gone):
            return self.federation.indexed(client, attacking=attacking)
        x, y = self.federation.shard(client, attacking=attacking)
        kept = torch.ones(len(y), dtype=torch.bool)
        kept[gone] = False
        rows = kept.nonzero().flatten().to(y.device)
        return x[rows], y[rows], None

    def examples(self, client: int) -> tuple[Tensor, Tensor]:
        """Return a client's own clean data, rows left out aside."""
        x, y, rows = self.data_of(client, attacking=False)
        return (x, y) if rows is None else (x[rows], y[rows])

    def train(
        self,
        client: int,
        server_round: int,
        global_vector: Tensor,
        out: Tensor,
        *,
        attacking: bool = False,
        last_update: Tensor | None = None,
        config: Mapping[str, Any] = NOTHING,
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
        config : mapping
            What the server's message says about training.

        Returns
        -------
        tuple of int and float
            Number of examples and mean training loss over the last epoch.
        """
        self.prepare_for(attacking, server_round, global_vector)
        x, y, own = self.data_of(client, attacking=attacking)
        rows = torch.arange(len(y), device=y.device) if own is None else own
        whole = self._whole(client, global_vector)
        self.model.load(whole)
        self.model.module.train()
        attack = self.step_attack(client, attacking)
        step = self._local_step(whole, last_update) if attack is not None else None
        local = self._local(client, server_round, whole, x, y, rows, config)
        with self._noise_of(client, server_round):
            if self.federation.task.settles:
                self.federation.task.settle(self.model.module, x[rows], y[rows])
            loss = self._epochs(local, rows, attack, step)
        if self.personal is None:
            self.model.delta_from(whole, out)
        else:
            trained = self.model.whole_vector()
            torch.sub(self.personal.shared_of(trained), global_vector, out=out)
            local.memory[OWN] = self.personal.own_of(trained)
        if self.rule.remembers:
            self.memories[client] = local.memory
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
        self._velocity.zero_()
        self.model.gradient.zero_()
        loss = self.federation.task.losses(self.model.module(x), y).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        _descend(self.model.vector, self.model.gradient, self._velocity, self.settings)
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
        self.load_for(None, global_vector)
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
        if last_update is not None and self.personal is not None:
            still = torch.zeros(len(self.personal.own_of(self._first)))
            last_update = self.personal.whole(last_update, still)
        return LocalStep(
            parameters=self.model.parameters,
            start=self.model.views(global_vector),
            last_update=None if last_update is None else self.model.views(last_update),
        )

    def _local(
        self,
        client: int,
        server_round: int,
        global_vector: Tensor,
        x: Tensor,
        y: Tensor,
        rows: Tensor,
        config: Mapping[str, Any],
    ) -> Local:
        return Local(
            module=self.model.module,
            vector=self.model.vector,
            gradient=self.model.gradient,
            start=global_vector[: self.model.layout.num_trainable],
            settings=self.settings_for(config, server_round),
            client=client,
            server_round=server_round,
            rounds=self.rounds,
            seed=self.seed,
            x=x,
            y=y,
            rows=rows,
            velocity=self._velocity,
            config=config,
            memory=dict(self.memories.get(client, {})) if self.rule.remembers else {},
        )

    def _epochs(
        self, local: Local, own: Tensor, attack: Attack | None, step: LocalStep | None
    ) -> float:
        stream = generator(self.seed, local.server_round, local.client, "batches")
        rule, task, module = self.rule, self.federation.task, local.module
        self._velocity.zero_()
        rule.begin(local)
        settings, shaping = local.settings, rule.shaping
        weights = _weights_of(rule, local.y, own)

        def update() -> None:
            _descend(local.vector, local.gradient, local.velocity, local.settings)

        total = torch.zeros((), device=local.x.device)
        for _ in range(settings.local_epochs):
            total.zero_()
            order = own[torch.randperm(len(own), generator=stream).to(local.x.device)]
            for rows in torch.split(order, settings.batch_size):
                if len(rows) < self.least:
                    continue
                local.rows = rows
                losses = task.losses(module(local.x[rows]), local.y[rows])
                shaped = shaping.of(losses, None if weights is None else weights[rows])
                loss = rule.loss(local, shaped)
                local.gradient.zero_()
                loss.backward()  # type: ignore[no-untyped-call]
                total += losses.detach().sum()
                if attack is None or step is None:
                    rule.step(local, update)
                else:
                    attack.local_step(step, lambda: rule.step(local, update))
        rule.end(local)
        return float(total / counted(len(own), settings.batch_size, self.least))


def _weights_of(rule: TrainingRule, y: Tensor, own: Tensor) -> Tensor | None:
    """Return the weights of the rows of `y` that are a client's own, None where all are 1."""
    found = rule.shaping.row_weights(y[own]) if rule.shaping.balance else None
    if found is None:
        return None
    weights = torch.zeros(len(y), device=y.device)
    weights[own] = found
    return weights


def counted(size: int, batch_size: int, least: int) -> int:
    """Return how many of a shard's rows an epoch trains on: all but a last batch below `least`."""
    left = size % batch_size
    return max(size - left if 0 < left < least else size, 1)


def _descend(
    vector: Tensor, gradient: Tensor, velocity: Tensor, settings: TrainingSettings
) -> None:
    """Take one SGD step from the flat gradient, in place."""
    if settings.weight_decay:
        gradient.add_(vector, alpha=settings.weight_decay)
    if settings.momentum:
        gradient = velocity.mul_(settings.momentum).add_(gradient)
    vector.add_(gradient, alpha=-settings.lr)
