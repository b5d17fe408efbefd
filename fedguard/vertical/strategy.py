"""`VerticalStrategy`: the loop of vertical training, on Flower's grid or in one process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fedguard.errors import ConfigurationError, check_choice
from fedguard.traits import Traits
from fedguard.vertical.exchange import Exchange, MessageExchange, Released, usable
from fedguard.vertical.label_holder import LabelHolder, Step
from fedguard.vertical.models import ARCHITECTURES
from fedguard.vertical.parties import Claim, PartyTerms
from fedguard.vertical.schedule import BatchSchedule

OWN_PARTY = 0
"""The label holder's own party: it has features too, adds no noise and is not paid."""


@dataclass
class VerticalRound:
    """What one round left behind.

    Attributes
    ----------
    server_round : int
        The round, from 1.
    loss : float
        Mean training loss over its batches.
    asked : tuple of int
        Parties that took part.
    tokens : dict of int to int
        What each party earned.
    scores : dict of str to dict of int to float
        What the strategy measured, per party: ``epsilon``, ``contribution``, ``utility``, ...
    faults : dict of int to str
        Why a party's block was zeroed in at least one batch.
    fault_batches : dict of int to int
        In how many.
    left : dict of int to str
        Parties that do not take part, and why.
    batches : int
        Batches of the round.
    seconds : float
        Time of the training, evaluation left out.
    """

    server_round: int
    loss: float = math.nan
    asked: tuple[int, ...] = ()
    tokens: dict[int, int] = field(default_factory=dict)
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    fault_batches: dict[int, int] = field(default_factory=dict)
    left: dict[int, str] = field(default_factory=dict)
    batches: int = 0
    seconds: float = 0.0


RoundEnd = Callable[[VerticalRound], None]


class VerticalStrategy(Strategy):
    """Split training of one model by parties with different features; no defence.

    1. Per batch of aligned ids, every party releases its embeddings; the label holder puts them
       side by side, steps the top model and returns to each the gradient of its own block.
    2. A block that is missing, not finite or of the wrong shape is replaced by zeros and
       reported; its party gets no gradient for that batch, and training goes on.
    3. After the last batch the round is settled: contributions, tokens, next epsilon.

    Vepakomma et al., "Split learning for health: Distributed deep learning without sharing raw
    patient data", arXiv 2018, with several parties as in the vertical setting.

    Parameters
    ----------
    arch : str
        ``modern`` (ReLU networks) or ``paper`` (the OPUS-VFL authors' networks).
    embedding : int
        Width E of every party's embedding, >= 1.
    seed : int
        Seed of the run; filled in by the simulation.
    """

    traits: ClassVar[Traits] = Traits(world="vertical", history=True)
    released: ClassVar[tuple[str, ...]] = ("embedding",)
    """Names of the tensors that a party releases per batch."""

    def __init__(self, *, arch: str = "modern", embedding: int = 32, seed: int = 0) -> None:
        check_choice("arch", arch, ARCHITECTURES)
        if embedding < 1:
            raise ConfigurationError("embedding", embedding, "a whole number >= 1")
        self.arch, self.embedding, self.seed = arch, embedding, seed
        self.holder: LabelHolder | None = None
        self.schedule: BatchSchedule | None = None
        self.parties = 0
        self.claims: dict[int, Claim] = {}
        self.left: dict[int, str] = {}

    # --- what a subclass changes --------------------------------------------------------------

    def terms(self, party: int) -> PartyTerms:
        """Return what the strategy asks of one party."""
        return PartyTerms(self.embedding)

    def prepare(self, exchange: Exchange) -> None:
        """Do what comes before the first round, such as an auction."""

    def observe(self, blocks: Mapping[int, Tensor]) -> None:
        """Look at the usable blocks of a batch before the step."""

    def step(self, released: Released, ids: Tensor) -> tuple[Step, dict[int, Tensor]]:
        """Train on one batch; return what it gave, and the gradient for each party."""
        step = self._holder.step({p: one["embedding"] for p, one in released.items()}, ids)
        by_party = step.gradients.transpose(0, 1).contiguous()
        return step, {p: by_party[p] for p in released}

    def settle(self, found: VerticalRound, contributions: Sequence[float]) -> None:
        """Fill in tokens and scores of a round, and decide who goes on."""
        for party in found.asked:
            claim = self.claims.get(party)
            if claim is not None and math.isfinite(claim.epsilon):
                found.scores.setdefault("epsilon", {})[party] = claim.epsilon

    def account(self) -> dict[int, float]:
        """Return the epsilon of all releases so far, of each party that has one."""
        return {}

    def round_facts(self, found: VerticalRound) -> dict[str, float]:
        """Return what a round's record says besides accuracy."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return what the strategy keeps between rounds, besides the label holder's half."""
        claims = [[p, c.epsilon, c.cost_ratio] for p, c in sorted(self.claims.items())]
        return {
            "claims": torch.tensor(claims, dtype=torch.float64).view(-1, 3),
            "left": torch.tensor(sorted(self.left), dtype=torch.int64),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.claims = {int(p): Claim(e, c) for p, e, c in state["claims"].tolist()}
        self.left = {int(p): "left before the run was resumed" for p in state["left"].tolist()}

    # --- the loop -----------------------------------------------------------------------------

    def bind(self, holder: LabelHolder, schedule: BatchSchedule, parties: int) -> None:
        """Give the strategy labels, top model and schedule: what the label holder owns."""
        self.holder, self.schedule, self.parties = holder, schedule, parties

    @property
    def _holder(self) -> LabelHolder:
        if self.holder is None:
            raise RuntimeError("bind the strategy to a label holder before it starts")
        return self.holder

    @property
    def active(self) -> list[int]:
        """Parties that take part."""
        return [party for party in range(self.parties) if party not in self.left]

    def train(
        self,
        exchange: Exchange,
        rounds: int,
        *,
        rounds_done: int = 0,
        on_round: RoundEnd = lambda _: None,
    ) -> None:
        """Train for some rounds.

        Parameters
        ----------
        exchange : Exchange
            The way to the parties.
        rounds : int
            Number of the last round.
        rounds_done : int
            Rounds of an earlier execution.
        on_round : callable
            Called at the end of each round.
        """
        if not rounds_done:
            self.claims = exchange.settle(self.active, {})
            self.prepare(exchange)
        for server_round in range(rounds_done + 1, rounds + 1):
            on_round(self.train_round(exchange, server_round))

    def train_round(self, exchange: Exchange, server_round: int) -> VerticalRound:
        """Train on every batch of one round and settle it."""
        assert self.schedule is not None
        started = time.monotonic()
        found = VerticalRound(server_round, asked=tuple(self.active), left=dict(self.left))
        losses: list[float] = []
        totals = [0.0] * self.parties
        for number, ids in self.schedule.batches(server_round):
            released = exchange.embed(found.asked, server_round, number, ids)
            self._note(found, exchange.missing)
            good, faults = usable(released, len(ids), self.embedding, self.released)
            self._note(found, faults)
            self.observe({party: one["embedding"] for party, one in good.items()})
            step, gradients = self.step(good, ids)
            losses.append(step.loss)
            totals = [t + c for t, c in zip(totals, step.contributions or totals, strict=True)]
            exchange.learn(gradients, step.loss, step.contributions)
            self._note(found, exchange.missing)
        found.batches, found.loss = len(losses), sum(losses) / len(losses)
        self.settle(found, [total / len(losses) for total in totals])
        self.claims.update(exchange.settle(found.asked, found.tokens))
        found.seconds = time.monotonic() - started
        return found

    @staticmethod
    def _note(found: VerticalRound, faults: Mapping[int, str]) -> None:
        for party, reason in faults.items():
            found.faults.setdefault(party, reason)
            found.fault_batches[party] = found.fault_batches.get(party, 0) + 1

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Train on a Flower grid whose node ids are party indices; see `Strategy.start`.

        The parties' weights never travel, so `initial_arrays` (the top model's, if given) and the
        arrays in the result are the label holder's alone.
        """
        holder = self._holder
        names = list(holder.top.state_dict())
        if initial_arrays is not None:
            holder.top.load_state_dict(initial_arrays.to_torch_state_dict())
        result = Result()

        def ended(found: VerticalRound) -> None:
            arrays = self.top_arrays(names)
            metrics = evaluate_fn(found.server_round, arrays) if evaluate_fn else None
            if metrics is not None:
                result.evaluate_metrics_serverapp[found.server_round] = metrics
            record = MetricRecord({"train-loss": found.loss})
            result.train_metrics_clientapp[found.server_round] = record

        self.train(MessageExchange(grid, timeout), num_rounds, on_round=ended)
        result.arrays = self.top_arrays(names)
        return result

    def top_arrays(self, names: Iterable[str]) -> ArrayRecord:
        """Return the top model's tensors as an array record."""
        state = self._holder.top.state_dict()
        return ArrayRecord({name: Array(state[name].cpu().numpy()) for name in names})

    # --- Flower's horizontal steps: no model is handed to the parties, so there are none -------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return no instructions: `train_round` exchanges embeddings instead."""
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return nothing: there are no client models to aggregate."""
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return no instructions: the label holder evaluates."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return nothing: the label holder evaluates."""
        return None

    def summary(self) -> None:
        """Say nothing: the run directory has it all."""
