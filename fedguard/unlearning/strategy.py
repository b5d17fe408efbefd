"""`SoUL`: a federation that forgets on request, with any rule and any unlearning method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from logging import WARNING
from pathlib import Path
from typing import Any, ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from torch import Tensor

from fedguard import registry
from fedguard.config.requests import UnlearnRequest
from fedguard.errors import ConfigurationError, check_number
from fedguard.layout import ParameterLayout
from fedguard.metrics.classification import predictions
from fedguard.randomness import SERVER, generator
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.unlearning.attribution import contributions
from fedguard.unlearning.climbing import AscentSettings
from fedguard.unlearning.costs import ClientLoad, CostLedger, LinkModel, forward_flops
from fedguard.unlearning.federaser import FedEraser, UpdateStore
from fedguard.unlearning.instructions import (
    ACTIVATIONS,
    ASCEND,
    CONTRIBUTIONS,
    COUNTS,
    RECORD,
    activations_content,
    ascend_content,
    from_record,
    rows_record,
)
from fedguard.unlearning.memory import Memory
from fedguard.unlearning.method import Activations, LastModel, Options, Situation
from fedguard.unlearning.methods import METHODS, MethodName
from fedguard.unlearning.pruning import PruningRule, prunable_layers
from fedguard.updates import ClientUpdates, Verdict

_BYTES = 4
_HALVINGS = 4
_MOST_CONDEMNED = 0.5
_MOST_ACTIVATION = 1e15


class SoUL(RobustStrategy):
    """Federated training that forgets a client, a class of one or some of its rows on request.

    Rounds are those of the inner rule. In the round of a request:

    1. clients are asked what the method wants: ascent on the rows to forget, what units do;
    2. the method makes the new model, by default
       ``alpha theta + (1 - alpha) theta_u`` with the units that matter for what is forgotten and
       little for the rest set to zero;
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
        self.rule = _inner_rule(rule, rule_arguments or {}, assumed_malicious, self.seed)
        self.radius = ascent_radius
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
        self.tolerance = tolerance
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
        self._situation: Situation | None = None

    # --- what the simulator asks -------------------------------------------------------------

    def take(self, requests: Sequence[Any], *, local_epochs: int) -> None:
        """Take the run's requests and its local epochs."""
        self.requests, self.local_epochs = tuple(requests), local_epochs

    def training_side(self, grid: Grid, trainer: Any) -> Grid:
        """Return a grid whose clients know how to forget."""
        from fedguard.unlearning.grid import UnlearningClients

        return UnlearningClients(grid, trainer)

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
            return self._erasure_messages(server_round, arrays, sorted(grid.get_node_ids()))
        messages = list(super().configure_train(server_round, arrays, config, grid))
        return [self._instructed(message) for message in messages]

    def _refuse(self, server_round: int) -> None:
        for request in self.requests:
            if request.round == server_round and not request.genuine:
                reason = f"client {request.requester} may not ask to forget {request.client}"
                log(WARNING, "unlearning request refused: %s", reason)
                self.memory.refused.append({"request": request.told(), "reason": reason})

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
        self._charge(server_round, updates, self.local_epochs)
        if isinstance(self.method, FedEraser) and self.method.store is not None:
            self.method.store.add(updates)
        weights = verdict.weights.tolist()
        for node, weight in zip(updates.node_ids, weights, strict=True):
            if weight == 0.0:
                self.memory.rejections[node] = self.memory.rejections.get(node, 0) + 1
        self._remember_models(server_round, updates, verdict)
        self._condemn(server_round)

    def _remember_models(self, server_round: int, updates: ClientUpdates, verdict: Verdict) -> None:
        ahead = {r.client for r in self.requests if r.genuine and (r.round or 0) > server_round}
        if any(request.rejected for request in self.requests):
            ahead |= set(self.memory.rejections)
        for row, node in enumerate(updates.node_ids):
            if node in ahead:
                model = updates.global_vector + updates.deltas[row]
                share = float(verdict.weights[row])
                self.memory.last_models[node] = LastModel(model, share)

    def _condemn(self, server_round: int) -> None:
        """Turn the k-th rejection of a client into a request of the server's."""
        limits = [request.rejected for request in self.requests if request.rejected is not None]
        if not limits:
            return
        most = int(_MOST_CONDEMNED * self.min_available_nodes)
        for client, count in sorted(self.memory.rejections.items()):
            known = client in self.memory.by_verdict or client in self.memory.forgotten_clients
            if count >= min(limits) and not known and len(self.memory.by_verdict) < most:
                self.memory.by_verdict[client] = server_round + 1

    def _charge(self, server_round: int, updates: ClientUpdates, epochs: int) -> None:
        model = _BYTES * updates.layout.size
        claims = updates.num_examples.tolist()
        loads = [
            ClientLoad(node, epochs * examples, 0.0, model, model)
            for node, examples in zip(updates.node_ids, claims, strict=True)
        ]
        self.ledger.add(server_round, loads)

    # --- rounds of a request -----------------------------------------------------------------

    def _erasure_messages(
        self, server_round: int, arrays: ArrayRecord, nodes: Sequence[int]
    ) -> list[Message]:
        situation = self._make_situation(server_round)
        self._situation = situation
        by_client = {request.client: request for request in self._due}
        messages = []
        if "ascent" in self.method.asks:
            messages += [
                self._ascend_message(situation, request, server_round)
                for request in self._due
                if request.client in nodes
            ]
        if "activations" in self.method.asks:
            gone = self.memory.forgotten_clients
            for node in nodes:
                if node not in gone:
                    request = by_client.get(node) or self.memory.partial(node)
                    content = activations_content(arrays, request, server_round)
                    messages.append(Message(content, dst_node_id=node, message_type=ACTIVATIONS))
        return messages

    def _parts(self) -> tuple[ParameterLayout, ServerTools, Tensor]:
        """Return layout, tools and global vector; all are there once a round is configured."""
        if self.layout is None or self.tools is None or self._global_vector is None:
            raise RuntimeError("unlearning needs a configured round and the server's tools")
        return self.layout, self.tools, self._global_vector

    def _make_situation(self, server_round: int) -> Situation:
        layout, tools, vector = self._parts()
        return Situation(
            vector=vector,
            initial=vector if self.memory.initial is None else self.memory.initial,
            requests=self._due,
            layout=layout,
            layers=prunable_layers(tools.model),
            last_models=self.memory.last_models,
            rng=generator(self.seed, server_round, SERVER, "unlearning"),
        )

    def _ascend_message(
        self, situation: Situation, request: UnlearnRequest, server_round: int
    ) -> Message:
        _, tools, _ = self._parts()
        assert request.client is not None
        origin = self.method.origin(situation, request)
        settings = self.method.settings(situation, request)
        if self.method.held_out:
            norm = float(origin[: situation.layout.num_trainable].double().norm())
            settings = replace(settings, radius=self.radius * norm)
        # A model that guesses has forgotten; beyond that, ascent only destroys.
        settings = replace(settings, target=max(settings.target, 1.0 / tools.num_classes))
        content = ascend_content(
            situation.layout.to_arrays(origin),
            request,
            settings,
            (tools.x, tools.y) if self.method.held_out else None,
            server_round,
            contributions="contributions" in self.method.asks,
        )
        return Message(content, dst_node_id=request.client, message_type=ASCEND)

    def _erase(
        self, server_round: int, replies: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        situation = self._situation
        assert situation is not None
        climbs = [m for m in replies if not m.has_error() and "arrays" in m.content]
        measured = [m for m in replies if not m.has_error() and "activations" in m.content]
        self._charge_erasure(server_round, climbs, measured)
        situation = replace(
            situation,
            climbed=self._climbed(situation, climbs),
            activations=self._measured(situation, measured),
            contributions=self._contributed(situation, climbs),
            held_out_contributions=self._held_out_contributions(situation),
        )
        erased = self.method.erase(situation)
        if "activations" in self.method.asks and not situation.activations:
            self.memory.notes.append(f"round {server_round}: no client sent activations")
        if "contributions" in self.method.asks and not situation.contributions:
            self.memory.notes.append(f"round {server_round}: no requester sent contributions")
        vector = erased.vector
        if not bool(torch.isfinite(vector).all()):
            self.memory.notes.append(f"round {server_round}: the erased model was not finite")
            vector = situation.vector
        self._carry_out(server_round, erased.keep)
        if self.memory.keep is not None:
            vector = vector * self.memory.keep
        metrics = MetricRecord({"forgotten": len(self._due)})
        self._due, self._situation = (), None
        return situation.layout.to_arrays(vector), metrics

    def _carry_out(self, server_round: int, keep: Tensor | None) -> None:
        memory = self.memory
        for request in self._due:
            done = request.model_copy(update={"round": server_round})
            memory.carried_out.append(done)
            memory.last_models.pop(request.client if request.client is not None else -1, None)
        if keep is not None:
            memory.keep = keep if memory.keep is None else memory.keep & keep
        memory.erased_round = server_round
        if isinstance(self.method, FedEraser) and self.method.store is not None:
            memory.calibrating = self.method.store.rounds[1:]
            memory.erased_round = server_round + len(memory.calibrating)

    def _measured(self, situation: Situation, replies: list[Message]) -> dict[int, Activations]:
        """Return the activations that make sense, by client."""
        _, tools, _ = self._parts()
        units = sum(layer.units for layer in situation.layers)
        found = {}
        for message in replies:
            node = message.metadata.src_node_id
            activations = _activations(message, tools.num_classes, units)
            if activations is None:
                self.memory.notes.append(f"client {node}'s activations make no sense: set aside")
            else:
                found[node] = activations
        return found

    def _contributed(self, situation: Situation, replies: list[Message]) -> dict[int, Tensor]:
        """Return the requesters' contributions that make sense, by client."""
        asked = {request.client for request in situation.requests}
        units = sum(layer.units for layer in situation.layers)
        found: dict[int, Tensor] = {}
        if "contributions" not in self.method.asks:
            return found
        for message in replies:
            node = message.metadata.src_node_id
            values = _contributions(message, units)
            if values is not None and node in asked:
                found[node] = values
        return found

    def _held_out_contributions(self, situation: Situation) -> Tensor | None:
        if "contributions" not in self.method.asks:
            return None
        layout, tools, vector = self._parts()
        layout.load(tools.model, vector.to(tools.x.device))
        return contributions(tools.model, situation.layers, tools.x, tools.y)

    def _climbed(self, situation: Situation, replies: list[Message]) -> dict[int, Tensor]:
        """Return the unlearned models' deltas that may stand, hostile ones bounded or dropped."""
        found: dict[int, Tensor] = {}
        if "ascent" not in self.method.asks:
            return found
        for request in situation.requests:
            mine = [m for m in replies if m.metadata.src_node_id == request.client]
            if not mine or request.client is None:
                self.memory.notes.append(f"client {request.client} did not unlearn")
                continue
            origin = self.method.origin(situation, request)
            updates = ClientUpdates.from_replies(mine[:1], origin, situation.layout)
            if not len(updates):
                reason = updates.malformed.get(request.client, "")
                self.memory.notes.append(f"client {request.client} did not unlearn: {reason}")
                continue
            delta = updates.deltas[0]
            found[request.client] = (
                self._bounded(situation, delta, request.client) if self.method.held_out else delta
            )
        return found

    def _bounded(self, situation: Situation, delta: Tensor, client: int) -> Tensor:
        """Bring a step into the ball, then halve it until non-members bear it."""
        trainable = situation.layout.num_trainable
        limit = self.radius * float(situation.vector[:trainable].double().norm())
        size = float(delta[:trainable].double().norm())
        if size > limit:
            delta = delta * (limit / size)
        before = self._held_out_accuracy(situation.vector)
        # The mix is what will stand; it lies between the model and one that the client stopped at.
        for _ in range(_HALVINGS):
            mixed = situation.vector + (1.0 - self.options.alpha) * delta
            if self._held_out_accuracy(mixed) >= before - self.tolerance:
                return delta
            delta = delta / 2.0
        self.memory.notes.append(f"client {client}'s unlearned model would have done harm: dropped")
        return torch.zeros_like(delta)

    def _held_out_accuracy(self, vector: Tensor) -> float:
        layout, tools, _ = self._parts()
        layout.load(tools.model, vector.to(tools.x.device))
        found = predictions(tools.model, tools.x).argmax(dim=1)
        return float((found == tools.y).double().mean())

    def _charge_erasure(
        self, server_round: int, climbs: list[Message], measured: list[Message]
    ) -> None:
        layout, tools, _ = self._parts()
        model = _BYTES * layout.size
        held = tools.x.numel() * _BYTES if self.method.held_out else 0
        units = sum(layer.units for layer in prunable_layers(tools.model))
        told = 2 * _BYTES * units if "contributions" in self.method.asks else 0
        loads: dict[int, ClientLoad] = {}
        for message, down, up in [
            *((m, model + held, model + told) for m in climbs),
            *((m, model, _array_bytes(m)) for m in measured),
        ]:
            node = message.metadata.src_node_id
            counts = message.content.config_records.get(COUNTS) or ConfigRecord()
            entry = loads.get(node, ClientLoad(node, 0.0, 0.0, 0, 0))
            loads[node] = ClientLoad(
                node,
                entry.trained + _count(counts, "trained"),
                entry.forwarded + _count(counts, "forwarded"),
                # The global model travels once to a client that is asked two things.
                max(entry.down, down),
                entry.up + up,
            )
        self.ledger.add(server_round, loads.values())

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
        self._charge(server_round, updates, method.calibration_epochs(self.local_epochs))
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


def _count(record: ConfigRecord, name: str) -> float:
    """Return a count that a client claims, 0 where it claims nothing sensible."""
    value = record.get(name)
    good = isinstance(value, int | float) and math.isfinite(value) and value >= 0
    return float(value) if good and isinstance(value, int | float) else 0.0


def _array_bytes(message: Message) -> int:
    records = message.content.array_records.values()
    return sum(_BYTES * math.prod(array.shape) for record in records for array in record.values())


def _contributions(message: Message, units: int) -> Tensor | None:
    """Return what a requester's units contributed, None where it is nothing that could be so."""
    try:
        given = message.content.config_records[CONTRIBUTIONS]["mean"]
        values = torch.tensor(given, dtype=torch.float64)
    except (KeyError, TypeError, ValueError, RuntimeError):
        return None
    sane = torch.isfinite(values) & (values >= 0) & (values < _MOST_ACTIVATION)
    known = tuple(values.shape) == (units,) and bool(sane.all()) and bool(values.any())
    return values if known else None


def _activations(message: Message, classes: int, units: int) -> Activations | None:
    """Return what a client measured, None where it is nothing a measurement could give."""
    wanted = {
        "forget-sums": (classes, units),
        "forget-counts": (classes,),
        "retain-sums": (classes, units),
        "retain-counts": (classes,),
    }
    try:
        found = from_record(message.content.array_records["activations"])
        tensors = [found[name].double() for name in wanted]
    except (KeyError, TypeError, ValueError):
        return None
    for tensor, shape in zip(tensors, wanted.values(), strict=True):
        sane = torch.isfinite(tensor) & (tensor >= 0) & (tensor < _MOST_ACTIVATION)
        if tuple(tensor.shape) != shape or not bool(sane.all()):
            return None
    return Activations(*tensors)


def _inner_rule(
    name: str, arguments: dict[str, Any], assumed_malicious: float, seed: int
) -> RobustStrategy:
    """Make the strategy whose rule aggregates; refuse what this one cannot hold."""
    from fedguard.encryption.secagg import SecAggPlus
    from fedguard.encryption.strategy import EncryptedStrategy

    known = registry.parameters(registry.find("strategy", name))
    decided = {"seed": seed, "assumed_malicious": assumed_malicious}
    filled = {key: value for key, value in decided.items() if key in known}
    rule = registry.create("strategy", name, **{**filled, **arguments})
    allowed = "a fedguard rule that sees each client's update, such as fedavg or geminiguard"
    if not isinstance(rule, RobustStrategy):
        raise ConfigurationError("rule", name, allowed)
    if isinstance(rule, EncryptedStrategy | SecAggPlus | SoUL):
        raise ConfigurationError("rule", name, allowed)
    return rule
