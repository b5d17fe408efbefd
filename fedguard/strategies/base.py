"""`RobustStrategy`: Flower's FedAvg with its aggregation behind one method, `combine`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import WARNING
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords, sample_nodes
from torch import Tensor, nn

from fedguard.layout import ParameterLayout
from fedguard.randomness import SERVER, numpy_generator
from fedguard.strategies.toolkit.foreign_server import client_metrics, tell
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.traits import Traits
from fedguard.updates import ClientUpdates, Verdict

if TYPE_CHECKING:
    from flwr.clientapp.typing import Mod

    from fedguard.strategies.pre_aggregation import PreAggregation

RoundObserver = Callable[[int, ClientUpdates, Verdict], None]
"""Called with the server round, what came in and what the defence decided."""


class RobustStrategy(FedAvg):
    """Base class of every fedguard strategy; a defence writes `combine` and nothing else.

    One round:

    1. sample clients from a stream keyed by the seed and the round, and send them the model;
    2. stack the replies into `ClientUpdates`; malformed ones are set aside with a reason;
    3. `combine` turns them into a `Verdict`;
    4. add the verdict's delta to the global model, unless it is not finite.

    It runs in any Flower ServerApp. It never sees which clients are malicious.

    Parameters
    ----------
    seed : int
        Seed of client sampling and of the defence's own random choices.
    model : nn.Module, optional
        A model of the federation's architecture, for defences that need one.
    server_data : tuple of Tensor, optional
        (M, ...) examples as the model expects them and their (M,) labels, held by the server.
    latent_layer : str, optional
        Submodule whose output is the latent representation; the model's own ``latent_layer`` if
        left out.
    **flower : Any
        Arguments of Flower's FedAvg, such as ``fraction_train`` or ``weighted_by_key``.

    Attributes
    ----------
    observers : list of callable
        Called after every decision; the simulator's recorder is one.
    pre : PreAggregation or None
        What is done to the updates before the rule sees them.
    tools : ServerTools or None
        Model and auxiliary data of the server; set it where `needs_server_tools` is true.
    layout : ParameterLayout or None
        Layout of the model's vector; taken from the first arrays unless set before.
    """

    properties: ClassVar[frozenset[str]] = frozenset()
    """What the conformance suite may ask of the rule: ``"robust"``, ``"translation"``,
    ``"scale"`` (equivariances), ``"noise"`` (adds noise of its own)."""

    traits: ClassVar[Traits] = Traits(rule=True, copyable=True)
    """What the strategy needs and does; a subclass writes ``RobustStrategy.traits.but(...)``."""

    needs_server_tools = False
    """Whether the traits ask for a model or examples of the server; kept in step with them."""

    def __init_subclass__(cls, **rest: Any) -> None:
        """Keep `traits` and `needs_server_tools` in step, whichever of them a subclass sets."""
        super().__init_subclass__(**rest)
        if "traits" in vars(cls):
            cls.needs_server_tools = cls.traits.tools
        elif vars(cls).get("needs_server_tools") is True and not cls.traits.tools:
            cls.traits = cls.traits.but(server_model=True, server_data="labelled")

    def __init__(
        self,
        *,
        seed: int = 0,
        model: nn.Module | None = None,
        server_data: tuple[Tensor, Tensor] | None = None,
        latent_layer: str | None = None,
        **flower: Any,
    ) -> None:
        evaluates = flower.pop("fraction_evaluate", 1.0)
        super().__init__(**flower)
        # Set afterwards: Flower's constructor warns of 0, which is the simulation's case.
        self.fraction_evaluate = evaluates
        if evaluates == 0.0:
            self.min_evaluate_nodes = 0
        self.seed = seed
        self.observers: list[RoundObserver] = []
        self.pre: PreAggregation | None = None
        self.tools = (
            None
            if model is None or server_data is None
            else ServerTools.of(model, *server_data, latent_layer=latent_layer)
        )
        self.current_round = 0
        self.layout: ParameterLayout | None = None
        self._global_vector: Tensor | None = None
        self._wide: dict[str, np.ndarray] = {}
        self._asked: tuple[int, ...] = ()

    def refined_traits(self) -> Traits:
        """Return the instance's traits, where constructor arguments change those of the class."""
        return self.traits

    def take(self, requests: Sequence[Any], *, local_epochs: int) -> None:
        """Take requests to unlearn, and the run's epochs; nothing for rules that take none."""

    def open_store(self, directory: Path, rounds_done: int) -> None:
        """Keep what does not fit a checkpoint in a folder; go on after `rounds_done` rounds."""

    def training_side(self, grid: Grid, trainer: Any) -> Grid:
        """Return a grid whose training clients know the strategy's own instructions.

        It goes inside the coalition: what an attack rewrites are replies to training. `trainer`
        is the `ClientTrainer` that the grid uses.
        """
        return grid

    def bind(self, layout: ParameterLayout) -> None:
        """Learn the model's layout before the first round.

        Raises
        ------
        ConfigurationError
            If the rule cannot work on this model.
        """
        self.layout = layout

    def describe(self, clients: int) -> str:
        """Return one line on what is hidden from the server; empty where nothing is."""
        return ""

    def left_out(self) -> list[str]:
        """Return in a line each what it leaves out on this task's data; mostly nothing."""
        return []

    def client_side(self, grid: Grid) -> Grid:
        """Return a grid whose clients do what the strategy wants of them, in this process.

        It goes around everything else, the coalition included: a client lies before it encrypts.
        """
        return grid

    def client_mods(self, node_config: Mapping[str, object]) -> list[Mod]:
        """Return what goes around a real client's training, as Flower mods; mostly nothing.

        Parameters
        ----------
        node_config : mapping
            The node's own configuration, which the server has no say in.
        """
        return []

    @abstractmethod
    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return what the server adds to the global model and how each client fared.

        `updates` has at least one row, and its rows are finite. Must not change `updates`.
        """

    def reset(self) -> None:
        """Forget what earlier rounds taught; for strategies that keep state between rounds."""

    def state(self) -> dict[str, Tensor]:
        """Return what must survive a restart, as named tensors."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients by the seed and send them the global model."""
        self._remember(server_round, arrays)
        if self.fraction_train == 0.0:
            return []
        # Flower's helper waits for enough nodes; its choice is dropped for a seeded one, and their
        # share is taken of those that are there after the wait, not of the first to arrive.
        _, nodes = sample_nodes(grid, self.min_available_nodes, self.min_train_nodes)
        wanted = max(int(len(nodes) * self.fraction_train), self.min_train_nodes)
        ordered = self.eligible(sorted(nodes))
        stream = numpy_generator(self.seed, server_round, SERVER, "sampling")
        chosen = stream.choice(len(ordered), size=min(wanted, len(ordered)), replace=False)
        self._asked = tuple(sorted(ordered[position] for position in chosen))
        config["server-round"] = server_round
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return self._construct_messages(record, list(self._asked), MessageType.TRAIN)

    def eligible(self, nodes: list[int]) -> list[int]:
        """Return which of the connected nodes may be asked to train; all of them by default."""
        return nodes

    def _remember(self, server_round: int, arrays: ArrayRecord) -> None:
        self.current_round = server_round
        if self.layout is None:
            self.layout = ParameterLayout.from_arrays(arrays)
        self._global_vector = self.layout.vector_from_arrays(arrays)
        # A run that is observed keeps its model as the float32 vector that its records hold.
        self._wide = {} if self.observers else self.layout.wide(arrays)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Set malformed replies aside, let the defence decide, return the new model.

        Beside ``accepted`` and ``rejected`` the metrics hold what Flower's
        ``train_metrics_aggr_fn`` makes of the accepted clients' replies.
        """
        if self.layout is None or self._global_vector is None:
            raise RuntimeError("aggregate_train was called before configure_train")
        replies = replies if isinstance(replies, list) else list(replies)
        updates = ClientUpdates.from_replies(
            replies,
            self._global_vector,
            self.layout,
            expected=self._asked,
            weighted_by_key=self.weighted_by_key,
            server_round=server_round,
            wide=self._wide,
        )
        verdict = self.decide(updates)
        for observer in self.observers:
            observer(server_round, updates, verdict)
        if not self.observers:
            tell(updates, verdict)
        metrics = MetricRecord(
            {
                **self._client_metrics(replies, updates, verdict),
                "accepted": int((verdict.weights > 0).sum()),
                "rejected": len(verdict.reasons) + len(updates.malformed),
            }
        )
        moved = self.layout.unflatten(verdict.delta)
        wide = {name: array + moved[name].numpy() for name, array in self._wide.items()}
        return self.layout.to_arrays(self._global_vector + verdict.delta, wide), metrics

    def _client_metrics(
        self, replies: list[Message], updates: ClientUpdates, verdict: Verdict
    ) -> MetricRecord:
        """Return what is made of the accepted clients' metrics; a run's records hold them apart."""
        usual = self.train_metrics_aggr_fn is aggregate_metricrecords
        if usual and self.observers:
            return MetricRecord()
        weights = zip(updates.node_ids, verdict.weights.tolist(), strict=True)
        accepted = {node for node, weight in weights if weight > 0}
        heard: dict[int, RecordDict] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            if node in accepted and node not in heard and not reply.has_error():
                heard[node] = reply.content
        return client_metrics(
            [heard[node] for node in sorted(heard)],
            self.train_metrics_aggr_fn,
            self.weighted_by_key,
        )

    def decide(self, updates: ClientUpdates) -> Verdict:
        """Return `combine`'s verdict, or one that leaves the model as it is.

        The model stays where no client sent a usable update and where the rule's delta is not
        finite or would take the model beyond float32.
        """
        if len(updates) == 0:
            return Verdict(torch.zeros(updates.layout.size), torch.zeros(0))
        verdict = self._after_pre(updates)
        if bool(torch.isfinite(verdict.delta + updates.global_vector).all()):
            return verdict
        log(WARNING, "the aggregate is not finite; the global model stays as it is")
        return Verdict(
            torch.zeros(updates.layout.size),
            torch.zeros(len(updates)),
            verdict.scores,
            dict.fromkeys(updates.node_ids, "the aggregate was not finite"),
        )

    def _after_pre(self, updates: ClientUpdates) -> Verdict:
        if self.pre is None:
            return self.combine(updates)
        from fedguard.strategies.pre_aggregation import combine_after

        return combine_after(self.pre, self.combine, updates)


def weighted_mean(deltas: Tensor, weights: Tensor) -> Tensor:
    """Return the (D,) float32 sum of rows by `weights` (K,), which add up to 1."""
    return (weights.to(deltas.dtype) @ deltas).to(torch.float32)


def uniform(count: int) -> Tensor:
    """Return `count` equal float64 weights that add up to 1."""
    return torch.full((count,), 1.0 / max(count, 1), dtype=torch.float64)
