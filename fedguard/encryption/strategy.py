"""`EncryptedStrategy`: what plain and multi-key CKKS have in common as Flower strategies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from logging import INFO
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.typing import Mod
from flwr.common.logger import log
from flwr.serverapp import Grid

from fedguard.encryption.errors import BackendUnavailableError
from fedguard.encryption.grouping import client_view, draw_groups, group_updates, make_rule
from fedguard.encryption.lattice.backend import make_backend
from fedguard.encryption.local_clients import LocalClients
from fedguard.encryption.mod import encryption_mod, guards_of
from fedguard.encryption.protocol.driver import Group, Lockstep
from fedguard.encryption.protocol.endpoint import ClientOptions
from fedguard.encryption.protocol.flow import Answers, Trip
from fedguard.encryption.protocol.guards import MINIMUM_PARTICIPANTS, Guards
from fedguard.encryption.protocol.ledger import model_digest
from fedguard.encryption.protocol.records import REFUSED, STAGES, stages_of, to_records
from fedguard.encryption.protocol.weights import GroupMean, upscaled
from fedguard.errors import ConfigurationError, RunError, check_assumed_malicious, check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.traits import Traits, traits_of
from fedguard.updates import ClientUpdates, Verdict


class EncryptedStrategy(RobustStrategy):
    """Average under encryption, over all clients or within groups that a robust rule combines.

    One round:

    1. sample clients and divide them into groups;
    2. send the model with the first requests of the protocol; clients train and answer;
    3. run the protocol's other trips, all groups side by side, until every group's mean is open;
    4. let the rule combine the group means, and add its delta to the global model.

    Clients need the protocol's other side: `fedguard.encryption.mod.encryption_mod` in a Flower
    ClientApp, or `fedguard.encryption.local_clients.LocalClients` around a grid of this process.
    A round that cannot be opened stops the run with one line; the run can be resumed.

    Parameters
    ----------
    groups : int
        Group size m, 0 for one group of all clients; a rule other than the mean needs groups.
    rule : str or mapping
        Name (and arguments) of the strategy that combines group means.
    minimum_participants : int
        Smallest cohort or group that clients encrypt for, at least 2.
    trip_timeout : float
        Seconds to wait for the replies of one of the protocol's own trips, above 0.
    insecure_seed : int, optional
        Makes keys and noise reproducible, and worthless.
    assumed_malicious : float
        Fraction of clients assumed malicious, for a rule that needs a bound.
    seed, **flower
        See `RobustStrategy`.
    """

    def __init__(
        self,
        *,
        groups: int = 0,
        rule: str | dict[str, Any] = "fedavg",
        minimum_participants: int = MINIMUM_PARTICIPANTS,
        trip_timeout: float = 3600.0,
        insecure_seed: int | None = None,
        assumed_malicious: float = 0.0,
        seed: int = 0,
        **flower: Any,
    ) -> None:
        super().__init__(seed=seed, **flower)
        check_number("minimum_participants", minimum_participants, at_least=2)
        check_number("groups", groups, at_least=0)
        check_assumed_malicious(assumed_malicious)
        if insecure_seed is not None:
            check_number("insecure_seed", insecure_seed, at_least=0)
        if groups and groups < minimum_participants:
            raise ConfigurationError(
                "groups",
                groups,
                f"0, or at least {minimum_participants} clients per group "
                "(minimum_participants); a smaller group hides nobody",
            )
        self.groups = groups
        self.rule = make_rule(rule, groups, assumed_malicious, seed)
        self.guards = Guards(
            minimum_participants=minimum_participants, smallest_threshold=minimum_participants
        )
        check_number("trip_timeout", trip_timeout, above=0)
        self.trip_timeout = trip_timeout
        self.insecure_seed = insecure_seed
        self.trips: list[dict[str, int]] = []
        self._grid: Grid | None = None
        self._lockstep: Lockstep | None = None
        self._groups: list[Group] = []
        self._divided: list[tuple[int, ...]] = []

    traits = RobustStrategy.traits.but(
        smallest_cohort=MINIMUM_PARTICIPANTS,
        visible="sum",
        client_side=True,
        lasting_keys=True,
    )

    def refined_traits(self) -> Traits:
        """Return the traits; the rule over group means may need the server's model or data."""
        inner = traits_of(self.rule)
        return self.traits.but(
            server_data=inner.server_data,
            server_model=inner.server_model,
            latent=inner.latent,
            tasks=inner.tasks,
            smallest_cohort=self.guards.minimum_participants,
            visible="group means" if self.groups else "sum",
            # Nobody but a simulation may know the keys.
            deployable=self.insecure_seed is None and self.traits.deployable,
        )

    @property
    @abstractmethod
    def client_options(self) -> ClientOptions | None:
        """How clients must be set up; None where they need nothing of ours."""

    def client_side(self, grid: Grid) -> Grid:
        """Return a grid whose clients encrypt, in this process, what `grid` trains.

        It goes around everything else, the coalition included: a client lies before it encrypts.

        Raises
        ------
        ConfigurationError
            If the clients' backend cannot be used here.
        """
        options = self.client_options
        if options is None:
            return grid
        try:
            make_backend(options.backend, options.source("backend"))
        except BackendUnavailableError as error:
            raise ConfigurationError("backend", options.backend, f"numpy here: {error}") from error
        return LocalClients(grid, options)

    def client_mods(self, node_config: Mapping[str, object]) -> list[Mod]:
        """Return the mod of a real client: its randomness is secret, its guards are its own.

        The run's configuration may ask for more than the node's guards do, never for less.
        """
        options = self.client_options
        if options is None:
            return []
        guards = guards_of(node_config).stricter(options.guards)
        return [encryption_mod(replace(options, guards=guards, insecure_seed=None))]

    @abstractmethod
    def make_group(self, cohort: tuple[int, ...], size: int) -> Group:
        """Return the protocol of one group for updates of `size` parameters."""

    @abstractmethod
    def describe(self, clients: int) -> str:
        """Return one line on what this mode protects and how well."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients and send them the model with the protocol's first requests."""
        if self.pre is not None and not self.groups:
            raise ConfigurationError(
                "pre", type(self.pre).__name__, "nothing without groups=m under encryption"
            )
        sampled = list(super().configure_train(server_round, arrays, config, grid))
        if not sampled:
            return sampled
        self._grid = grid
        self._divide()
        assert self._global_vector is not None
        self._lockstep = Lockstep(self._groups, server_round, model_digest(self._global_vector))
        self.trips = []
        trip = self._lockstep.begin()
        self._count("download", trip)
        return self._messages(trip, {self.arrayrecord_key: arrays, self.configrecord_key: config})

    def _divide(self) -> None:
        """Divide this round's clients; groups that stay keep the keys they have made ahead."""
        assert self.layout is not None
        divided = draw_groups(self._asked, self.groups, self.seed)
        if divided == self._divided:
            return
        log(INFO, "%s", self.describe(len(divided[0])))
        self._divided = divided
        self._groups = [self.make_group(cohort, self.layout.size) for cohort in divided]

    def _messages(
        self,
        trip: Trip,
        model: Mapping[str, ArrayRecord | MetricRecord | ConfigRecord] | None = None,
    ) -> list[Message]:
        return [
            Message(
                RecordDict({**(model or {}), **to_records(stages)}),
                dst_node_id=party,
                message_type=MessageType.TRAIN,
            )
            for party, stages in sorted(trip.items())
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Finish the protocol, combine the group means, return the new model."""
        if self._lockstep is None or self._grid is None or self._global_vector is None:
            raise RuntimeError("aggregate_train was called before configure_train")
        lockstep = self._lockstep
        trip = lockstep.advance(self._answers(replies))
        while trip:
            self._count("download", trip)
            replies = self._grid.send_and_receive(self._messages(trip), timeout=self.trip_timeout)
            trip = lockstep.advance(self._answers(replies))
        if not lockstep.means:
            raise RunError(
                f"round {server_round}: {next(iter(lockstep.failures.values()))}; resume the run "
                "to try the round again with fresh keys"
            )
        return self._finish(server_round, lockstep)

    def _answers(self, replies: Iterable[Message]) -> Answers:
        """Return what each party replied; an error reply is a refusal of all it was asked."""
        answers: dict[int, Mapping[str, Mapping[str, object]]] = {}
        for reply in replies:
            party = reply.metadata.src_node_id
            if reply.has_error():
                reason = " ".join(f"error: {reply.error.reason}".split())[:200]
                answers[party] = {stage: {REFUSED: reason} for stage in STAGES}
            else:
                answers[party] = stages_of(reply.content)
        self._count("upload", answers)
        return answers

    def _finish(
        self, server_round: int, lockstep: Lockstep
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        assert self.layout is not None
        assert self._global_vector is not None
        means = [self._upscaled(lockstep.means[index]) for index in sorted(lockstep.means)]
        bare = ClientUpdates(
            deltas=torch.empty(0, self.layout.size),
            num_examples=torch.empty(0, dtype=torch.float64),
            node_ids=(),
            global_vector=self._global_vector,
            layout=self.layout,
            server_round=server_round,
        )
        updates, verdict = self._combine_groups(means, bare, self._absent(lockstep))
        for observer in self.observers:
            observer(server_round, updates, verdict)
        metrics = self._metrics(means, updates, verdict)
        return self.layout.to_arrays(self._global_vector + verdict.delta), metrics

    def _upscaled(self, mean: GroupMean) -> GroupMean:
        assert self.layout is not None
        delta = upscaled(torch.from_numpy(mean.mean), self.layout)
        return replace(mean, mean=delta.numpy())

    def _absent(self, lockstep: Lockstep) -> dict[int, str]:
        """Return who is in no mean, and why."""
        present = {p for mean in lockstep.means.values() for p in mean.contributors}
        reasons = {}
        for index, group in enumerate(lockstep.groups):
            lost = lockstep.failures.get(index)
            for party in group.cohort:
                if party not in present:
                    reasons[party] = group.faults.get(party, lost or "no reply")
        return reasons

    def _combine_groups(
        self, means: list[GroupMean], like: ClientUpdates, malformed: Mapping[int, str]
    ) -> tuple[ClientUpdates, Verdict]:
        self.rule.tools, self.rule.layout, self.rule.pre = self.tools, self.layout, self.pre
        self.rule.current_round = self.current_round
        seen = group_updates(means, like)
        return client_view(means, seen, self.rule.decide(seen), malformed)

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return what the rule makes of plaintext updates, averaged in groups first.

        The protocol never gets here; it is for attacks that search against a copy of the rule.
        """
        means = plain_means(updates, draw_groups(updates.node_ids, self.groups, self.seed))
        view, verdict = self._combine_groups(means, updates, {})
        order = torch.tensor([view.node_ids.index(node) for node in updates.node_ids])
        return Verdict(
            verdict.delta,
            verdict.weights[order],
            {name: values[order] for name, values in verdict.scores.items()},
            verdict.reasons,
        )

    def _after_pre(self, updates: ClientUpdates) -> Verdict:
        return self.combine(updates)

    def reset(self) -> None:
        """Forget keys made ahead, and what the rule has learnt."""
        self.rule.reset()
        self._divided = []

    def state(self) -> dict[str, torch.Tensor]:
        """Return the rule's state; keys do not outlive a run."""
        return self.rule.state()

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Give the rule its state back."""
        self.rule.load_state(state)

    def _count(self, direction: str, trip: Trip | Answers) -> None:
        sizes = [sum(map(_size, stages.values())) for stages in trip.values()]
        if direction == "download":
            self.trips.append({"download": 0, "upload": 0})
        self.trips[-1][direction] = max(sizes, default=0)

    def _metrics(
        self, means: list[GroupMean], updates: ClientUpdates, verdict: Verdict
    ) -> MetricRecord:
        return MetricRecord(
            {
                "accepted": int((verdict.weights > 0).sum()),
                "rejected": len(verdict.reasons) + len(updates.malformed),
                "trips": len(self.trips),
                "client-upload-bytes": sum(trip["upload"] for trip in self.trips),
                "client-download-bytes": sum(trip["download"] for trip in self.trips),
                "clipped-share": float(np.mean([mean.clipped for mean in means])),
            }
        )


def _size(payload: Mapping[str, object]) -> int:
    """Return about how many bytes a payload takes on the wire."""
    return sum(_size_of(value) for value in payload.values())


def _size_of(value: object) -> int:
    if isinstance(value, bytes | str):
        return len(value)
    return sum(map(_size_of, value)) if isinstance(value, list) else 8


def plain_means(updates: ClientUpdates, groups: Iterable[tuple[int, ...]]) -> list[GroupMean]:
    """Return the groups' weighted means of plaintext updates."""
    rows = {node: row for row, node in enumerate(updates.node_ids)}
    means = []
    for group in groups:
        chosen = [rows[node] for node in group]
        weights = updates.num_examples[chosen]
        deltas = updates.deltas[chosen].to(torch.float64)
        mean = weights @ deltas / weights.sum()
        means.append(GroupMean(mean.numpy(), float(weights.sum()), 0.0, tuple(group)))
    return means
