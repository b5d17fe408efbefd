"""`SoUL`: a federation that forgets on request, with any rule and any unlearning method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from logging import WARNING
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from torch import Tensor

from fedguard.clients.training import ClientTrainer
from fedguard.config.requests import UnlearnRequest
from fedguard.errors import check_assumed_malicious, check_choice, check_number
from fedguard.layout import ParameterLayout
from fedguard.randomness import SERVER, generator
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.unlearning.climbing import AscentSettings
from fedguard.unlearning.costs import CostLedger, LinkModel, forward_flops
from fedguard.unlearning.erasure import Bounds, Erasure, training_loads
from fedguard.unlearning.federaser import FedEraser, UpdateStore
from fedguard.unlearning.grid import UnlearningClients
from fedguard.unlearning.inner_rule import make_inner_rule
from fedguard.unlearning.instructions import RECORD, rows_record
from fedguard.unlearning.memory import Memory
from fedguard.unlearning.method import Options, Situation
from fedguard.unlearning.methods import METHODS, MethodName
from fedguard.unlearning.pruning import PruningRule, prunable_layers
from fedguard.updates import ClientUpdates, Verdict

_MOST_CONDEMNED = 0.5


class SoUL(RobustStrategy):
    r"""Federated training that forgets a client, a class of one or some of its rows on request.

    Rounds are those of the inner rule. In the round of a request:

    1. clients are asked what the method wants: ascent on the rows to forget, what units do;
    2. the method makes the new model, by default a mix of the global and the unlearned one with the
       units that matter for what is forgotten and little for the rest set to zero;
    3. from then on the forgotten rows and clients take no part, and silenced units stay zero.

    Uz Zaman, Yao and Sun, "Sky of Unlearning (SoUL): Rewiring Federated Machine Unlearning via
    Selective Pruning", ICC 2025. A reading of: the paper's text is not public; docs/soul.md says
    which choices are ours.

    Parameters
    ----------
    method : str
        ``"soul"`` or one of the methods it is compared with.
    rule : str
        Registered strategy whose rule aggregates, ``"fedavg"`` by default.
    rule_arguments : dict, optional
        That strategy's constructor arguments.
    assumed_malicious : float
        Handed to rules that need a bound, 0 <= a < 0.5.
    alpha : float
        Weight of the global model in the mix, 0 to 1.
    beta : float
        Share of every hidden layer's units that is silenced, 0 to below 1.
    pruning : str
        ``"attribution-ratio"``, ``"activation-ratio"``, ``"relative-change"``, ``"paper"``,
        ``"random"`` or ``"none"``; see `fedguard.unlearning.pruning.select_units`.
    ascent_lr, ascent_epochs, ascent_batch, ascent_clip : float, int, int, float
        Step size (the method's own if left out), most passes, rows per step and largest gradient
        norm of the ascent.
    ascent_repair : float
        Weight of the held-out rows' loss, which a bounded ascent descends as it climbs; 0 for none.
    ascent_radius : float
        Largest distance between global and unlearned model, as a share of the model's norm.
    ascent_cap : float
        Rows with this many times ``ln C`` nats of loss are climbed no further.
    forget_target : float
        Accuracy on the rows to forget, 0 to 1, at which an ascent ends; at least guessing's.
    tolerance : float
        Held-out accuracy that an unlearned model may lose before recovery, 0 to 1.
    recovery_rounds, relearning_rounds : int
        Rounds after which the model counts as recovered, and further rounds after which relearning
        is looked at.
    calibration_interval, calibration_ratio : int, float
        FedEraser's rounds between stored updates and its share of the local epochs.
    store_limit_mb : float
        Most megabytes of stored updates.
    link : LinkModel, optional
        Radio link whose times are accounted for.
    **base : Any
        Arguments of `RobustStrategy`.

    Notes
    -----
    .. math::
       \theta' = \alpha \theta + (1 - \alpha) \theta_u

    where :math:`\theta` is the global model, :math:`\theta_u` that after the requester's ascent; of
    every hidden layer the chosen share :math:`\beta` of units is then set to zero.
    """

    properties: ClassVar[frozenset[str]] = frozenset({"translation", "scale"})
    traits = RobustStrategy.traits.but(
        server_data="labelled",
        server_model=True,
        history=True,
        requests=True,
        audit="unlearning",
        client_side=True,
        tasks=frozenset({"classification"}),
    )

    def __init__(
        self,
        *,
        method: MethodName = "soul",
        rule: str = "fedavg",
        rule_arguments: dict[str, Any] | None = None,
        assumed_malicious: float = 0.25,
        alpha: float = 0.1,
        beta: float = 0.15,
        pruning: PruningRule = "attribution-ratio",
        ascent_lr: float | None = None,
        ascent_epochs: int = 5,
        ascent_batch: int = 32,
        ascent_clip: float = 5.0,
        ascent_repair: float = 1.0,
        ascent_radius: float = 0.2,
        ascent_cap: float = 2.0,
        forget_target: float = 0.5,
        tolerance: float = 0.2,
        recovery_rounds: int = 3,
        relearning_rounds: int = 3,
        calibration_interval: int = 2,
        calibration_ratio: float = 0.5,
        store_limit_mb: float = 256.0,
        link: LinkModel | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_choice("method", method, METHODS)
        check_choice("pruning", pruning, get_args(PruningRule))
        check_assumed_malicious(assumed_malicious)
        check_number("alpha", alpha, at_least=0.0, at_most=1.0)
        check_number("beta", beta, at_least=0.0, below=1.0)
        if ascent_lr is None:
            ascent_lr = METHODS[method].ascent_lr
        check_number("ascent_lr", ascent_lr, above=0.0)
        check_number("ascent_clip", ascent_clip, above=0.0)
        check_number("ascent_repair", ascent_repair, at_least=0.0)
        check_number("forget_target", forget_target, at_least=0.0, at_most=1.0)
        check_number("ascent_radius", ascent_radius, above=0.0)
        check_number("ascent_cap", ascent_cap, above=0.0)
        check_number("tolerance", tolerance, at_least=0.0, at_most=1.0)
        check_number("calibration_ratio", calibration_ratio, above=0.0, at_most=1.0)
        check_number("store_limit_mb", store_limit_mb, above=0.0)
        counts = {
            "ascent_epochs": ascent_epochs,
            "ascent_batch": ascent_batch,
            "recovery_rounds": recovery_rounds,
            "relearning_rounds": relearning_rounds,
            "calibration_interval": calibration_interval,
        }
        for name, value in counts.items():
            check_number(name, value, at_least=1)
        self.method_name = method
        self.rule = make_inner_rule(rule, rule_arguments or {}, assumed_malicious, self.seed)
        ascent = AscentSettings(
            lr=ascent_lr,
            epochs=ascent_epochs,
            batch_size=ascent_batch,
            clip=ascent_clip,
            cap=ascent_cap,
            tolerance=tolerance,
            target=forget_target,
            repair=ascent_repair,
        )
        self.options = Options(alpha, beta, pruning, ascent, calibration_ratio)
        self.method = METHODS[method](self.options)
        self.bounds = Bounds(ascent_radius, tolerance)
        self.recovery_rounds = recovery_rounds
        self.relearning_rounds = relearning_rounds
        self.calibration_interval = calibration_interval
        self.store_limit = int(store_limit_mb * 2**20)
        self.link = link or LinkModel()
        self.requests: tuple[UnlearnRequest, ...] = ()
        self.local_epochs = 1
        self.memory = Memory()
        self._costs: dict[int, dict[str, float]] = {}
        self._ledger: CostLedger | None = None
        self._due: tuple[UnlearnRequest, ...] = ()
        self._erasure: Erasure | None = None

    # --- what the simulator asks -------------------------------------------------------------

    def take(self, requests: Sequence[Any], *, local_epochs: int) -> None:
        """Take the run's requests and its local epochs."""
        self.requests, self.local_epochs = tuple(requests), local_epochs

    def open_store(self, directory: Path, rounds_done: int) -> None:
        """Keep updates in a folder where the method wants them; go on after `rounds_done`."""
        if isinstance(self.method, FedEraser):
            store = UpdateStore(directory, self.calibration_interval, self.store_limit)
            store.drop_after(rounds_done) if rounds_done else store.clear()
            self.method.store = store

    def due(self, server_round: int) -> tuple[UnlearnRequest, ...]:
        """Return the genuine requests that a round carries out."""
        planned = [r for r in self.requests if r.round == server_round and r.genuine]
        return (*planned, *self.memory.condemned(server_round))

    def training_side(self, grid: Grid, trainer: ClientTrainer) -> Grid:
        """Return a grid around one whose clients train here; they know how to forget."""
        return UnlearningClients(grid, trainer)

    @property
    def ledger(self) -> CostLedger:
        """Costs so far."""
        if self._ledger is None:
            flops = 0.0
            if self.tools is not None:
                flops = forward_flops(self.tools.model, self.tools.x[:1])
            self._ledger = CostLedger(flops, self.link, self.seed, self._costs)
        return self._ledger

    def reset(self) -> None:
        """Forget requests carried out, masks and costs."""
        self.rule.reset()
        self.memory = Memory()
        self._costs.clear()

    def state(self) -> dict[str, Tensor]:
        """Return the memory, the costs and the inner rule's state."""
        inner = {f"rule.{name}": value for name, value in self.rule.state().items()}
        return {**inner, **self.memory.to_tensors(self._costs)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        if "memory" not in state:
            return
        inner = {k.removeprefix("rule."): v for k, v in state.items() if k.startswith("rule.")}
        self.rule.load_state(inner)
        self.memory, costs = Memory.from_tensors(state)
        self._costs.clear()
        self._costs.update(costs)

    # --- ordinary rounds ---------------------------------------------------------------------

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the inner rule's verdict."""
        rule = self.rule
        rule.current_round, rule.layout, rule.tools = self.current_round, self.layout, self.tools
        return rule.combine(updates)

    def decide(self, updates: ClientUpdates) -> Verdict:
        """Return the inner rule's verdict with silenced units kept at zero."""
        verdict = super().decide(updates)
        keep = self.memory.keep
        if keep is None:
            return verdict
        delta = torch.where(keep, verdict.delta, -updates.global_vector)
        return replace(verdict, delta=delta)

    def eligible(self, nodes: list[int]) -> list[int]:
        """Return the nodes that are not forgotten."""
        return [node for node in nodes if node not in self.memory.forgotten_clients]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask clients to train, or to do what a request of this round takes."""
        self._remember(server_round, arrays)
        if self.memory.initial is None and self._global_vector is not None:
            self.memory.initial = self._global_vector.clone()
        self._refuse(server_round)
        self._due = self.due(server_round)
        if self._due:
            self._erasure = self._make_erasure(server_round)
            return self._erasure.messages(arrays, sorted(grid.get_node_ids()), server_round)
        messages = list(super().configure_train(server_round, arrays, config, grid))
        return [self._instructed(message) for message in messages]

    def _refuse(self, server_round: int) -> None:
        for request in self.requests:
            if request.round == server_round and not request.genuine:
                log(WARNING, "unlearning request refused: %s", self.memory.refuse(request))

    def _instructed(self, message: Message) -> Message:
        """Return a training instruction that says which rows to leave out and how long to train."""
        node = message.metadata.dst_node_id
        request, epochs = self.memory.partial(node), None
        if self.memory.calibrating:
            epochs = self.method.calibration_epochs(self.local_epochs)
            epochs = None if epochs == self.local_epochs else epochs
        if request is None and epochs is None:
            return message
        content = RecordDict(dict(message.content))
        content[RECORD] = rows_record(request, epochs)
        kind = message.metadata.message_type
        return Message(content, dst_node_id=node, message_type=kind)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate what was trained, or erase what was requested."""
        if self._due:
            return self._erase(server_round, list(replies))
        if self.memory.calibrating:
            return self._calibrate(server_round, replies)
        self.observers.append(self._learn)
        try:
            return super().aggregate_train(server_round, replies)
        finally:
            self.observers.remove(self._learn)

    def _learn(self, server_round: int, updates: ClientUpdates, verdict: Verdict) -> None:
        """Remember of a round what later requests may need."""
        self.ledger.add(server_round, training_loads(updates, self.local_epochs))
        if isinstance(self.method, FedEraser) and self.method.store is not None:
            self.method.store.add(updates)
        self.memory.learn(updates, verdict, self.requests)
        limits = [request.rejected for request in self.requests if request.rejected is not None]
        if limits:
            most = int(_MOST_CONDEMNED * self.min_available_nodes)
            self.memory.condemn(server_round + 1, min(limits), most)

    # --- rounds of a request -----------------------------------------------------------------

    def _parts(self) -> tuple[ParameterLayout, ServerTools, Tensor]:
        """Return layout, tools and global vector; all are there once a round is configured."""
        if self.layout is None or self.tools is None or self._global_vector is None:
            raise RuntimeError("unlearning needs a configured round and the server's tools")
        return self.layout, self.tools, self._global_vector

    def _make_erasure(self, server_round: int) -> Erasure:
        layout, tools, vector = self._parts()
        situation = Situation(
            vector=vector,
            initial=vector if self.memory.initial is None else self.memory.initial,
            requests=self._due,
            layout=layout,
            layers=prunable_layers(tools.model),
            last_models=self.memory.last_models,
            rng=generator(self.seed, server_round, SERVER, "unlearning"),
        )
        return Erasure(self.method, self.memory, situation, tools, self.bounds)

    def _erase(
        self, server_round: int, replies: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        erasure = self._erasure
        assert erasure is not None
        self.ledger.add(server_round, erasure.loads(replies))
        erased = erasure.erase(replies, server_round)
        store = self.method.store if isinstance(self.method, FedEraser) else None
        waiting = store.rounds[1:] if store is not None else []
        self.memory.carry_out(self._due, server_round, erased.keep, waiting)
        vector = erased.vector
        if self.memory.keep is not None:
            vector = vector * self.memory.keep
        metrics = MetricRecord({"forgotten": len(self._due)})
        self._due, self._erasure = (), None
        return erasure.situation.layout.to_arrays(vector), metrics

    def _calibrate(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate one round of calibration."""
        layout, _, vector = self._parts()
        updates = ClientUpdates.from_replies(
            replies,
            vector,
            layout,
            expected=self._asked,
            weighted_by_key=self.weighted_by_key,
            server_round=server_round,
        )
        method = self.method
        epochs = method.calibration_epochs(self.local_epochs)
        self.ledger.add(server_round, training_loads(updates, epochs))
        stored_round = self.memory.calibrating.pop(0)
        delta = torch.zeros(layout.size)
        if isinstance(method, FedEraser) and method.store is not None:
            delta = method.calibrate(method.store.read(stored_round, layout), updates)
        weights = updates.num_examples / updates.num_examples.sum().clamp(min=1.0)
        verdict = Verdict(delta, weights)
        for observer in self.observers:
            observer(server_round, updates, verdict)
        metrics = MetricRecord({"calibrated": len(updates)})
        return layout.to_arrays(vector + delta), metrics
