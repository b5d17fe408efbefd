"""SecAgg+: pairwise masks that cancel in the sum, by Flower's own client mod; the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.typing import Mod
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import factor_extract
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.serverapp import Grid
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from fedguard.encryption.grouping import client_view, group_updates
from fedguard.encryption.protocol.weights import GroupMean, upscaled
from fedguard.encryption.secagg_clients import SecAggClients, secagg_mods
from fedguard.errors import RunError, check_number
from fedguard.randomness import SERVER, numpy_generator
from fedguard.strategies.base import RobustStrategy, weighted_mean
from fedguard.updates import ClientUpdates, Verdict

_MODULUS = 1 << 32


@dataclass
class _Round:
    """What the server knows of one round of the protocol."""

    neighbours: dict[int, set[int]] = field(default_factory=dict)
    threshold: int = 0
    active: set[int] = field(default_factory=set)
    keys: dict[int, list[bytes]] = field(default_factory=dict)
    masking: set[int] = field(default_factory=set)
    masked: list[np.ndarray] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)


class SecAggPlus(RobustStrategy):
    """Average updates under masks that cancel; the server sees the sum alone.

    ``sum_i (w_i x_i + PRG(b_i) + sum_j +- PRG(k_ij))`` modulo 2^32; shares of b_i are collected
    from those who stayed and of the key behind k_ij for those who vanished.

    Bell, Bonawitz, Gascon, Lepoint and Raykova, "Secure Single-Server Aggregation with
    (Poly)Logarithmic Overhead", CCS 2020, by the client mod that Flower ships; the server's part
    follows Flower's workflow on its message interface, with the mod's own primitives. Four trips
    per round. Flower 1.41 folds a mask's seed into 32 bits for NumPy's Mersenne Twister, so its
    masks withstand a look, not a search.

    Parameters
    ----------
    num_shares : float
        Share of the clients that hold parts of a client's secrets, above 0 to 1.
    reconstruction_threshold : float
        Share of these that must answer, above 0 to 1.
    max_weight : float
        Number of examples that counts as weight 1.
    clipping_range : float
        Updates are clipped to plus and minus this.
    quantization_range : int
        Levels between; a power of two below 2^31.
    trip_timeout : float
        Seconds to wait for the replies of one of the protocol's own trips, above 0.
    seed, **flower
        See `RobustStrategy`.
    """

    traits = RobustStrategy.traits.but(
        smallest_cohort=3, visible="sum", client_side=True, deployable=False
    )

    def __init__(
        self,
        *,
        num_shares: float = 1.0,
        reconstruction_threshold: float = 0.5,
        max_weight: float = 1000.0,
        clipping_range: float = 8.0,
        quantization_range: int = 1 << 22,
        trip_timeout: float = 3600.0,
        seed: int = 0,
        **flower: Any,
    ) -> None:
        super().__init__(seed=seed, **flower)
        check_number("num_shares", num_shares, above=0, at_most=1)
        check_number("reconstruction_threshold", reconstruction_threshold, above=0, at_most=1)
        check_number("max_weight", max_weight, above=0)
        check_number("clipping_range", clipping_range, above=0)
        check_number("quantization_range", quantization_range, at_least=2, below=1 << 31)
        check_number("trip_timeout", trip_timeout, above=0)
        self.trip_timeout = trip_timeout
        self.num_shares = num_shares
        self.reconstruction_threshold = reconstruction_threshold
        self.max_weight = float(max_weight)
        self.clipping_range = float(clipping_range)
        self.quantization_range = quantization_range
        self._grid: Grid | None = None
        self._round = _Round()

    def client_side(self, grid: Grid) -> Grid:
        """Return a grid whose clients run Flower's mod, in this process, on what `grid` trains."""
        return SecAggClients(grid)

    def client_mods(self) -> list[Mod]:
        """Return the mods that a ClientApp of this strategy needs."""
        return secagg_mods()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Exchange keys and key shares, then send the model with each client's shares."""
        sampled = list(super().configure_train(server_round, arrays, config, grid))
        if not sampled:
            return sampled
        self._grid = grid
        self._round = self._draw_neighbours(server_round)
        self._take_keys(self._exchange(dict.fromkeys(self._asked, self._settings())))
        forwarded = self._forward(self._exchange(self._key_lists()))
        model = {self.arrayrecord_key: arrays, self.configrecord_key: config}
        return [self._message(node, record, model) for node, record in forwarded.items()]

    def _draw_neighbours(self, server_round: int) -> _Round:
        """Place the clients on a ring; each shares its secrets with those nearby."""
        count = len(self._asked)
        if count < 3:
            raise RunError(f"secagg+ needs at least 3 clients, round {server_round} has {count}")
        shares = min(max(round(self.num_shares * count), 3), count)
        half = shares // 2
        order = numpy_generator(self.seed, server_round, SERVER, "neighbours").permutation(count)
        ring = [self._asked[position] for position in order]
        neighbours = {
            node: {ring[(place + offset) % count] for offset in range(-half, half + 1)}
            for place, node in enumerate(ring)
        }
        held = min(len(near) for near in neighbours.values())
        threshold = min(max(round(self.reconstruction_threshold * shares), 2), held)
        return _Round(neighbours, threshold, set(self._asked))

    def _settings(self) -> dict[str, Any]:
        return {
            Key.STAGE: Stage.SETUP,
            Key.SAMPLE_NUMBER: len(self._asked),
            Key.SHARE_NUMBER: max(map(len, self._round.neighbours.values())),
            Key.THRESHOLD: self._round.threshold,
            Key.CLIPPING_RANGE: self.clipping_range,
            Key.TARGET_RANGE: self.quantization_range,
            Key.MOD_RANGE: _MODULUS,
            Key.MAX_WEIGHT: self.max_weight,
        }

    def _message(
        self, node: int, record: Mapping[str, Any], model: Mapping[str, Any] | None = None
    ) -> Message:
        # The mod takes its stage out of the record, so every message needs a record of its own.
        content = RecordDict({**(model or {}), RECORD_KEY_CONFIGS: ConfigRecord(dict(record))})
        return Message(content, dst_node_id=node, message_type=MessageType.TRAIN)

    def _exchange(self, records: Mapping[int, Mapping[str, Any]]) -> dict[int, ConfigRecord]:
        assert self._grid is not None
        messages = [self._message(node, record) for node, record in sorted(records.items())]
        return self._answers(self._grid.send_and_receive(messages, timeout=self.trip_timeout))

    def _answers(self, replies: Iterable[Message]) -> dict[int, ConfigRecord]:
        """Return the replies of the clients that are still there; fewer stop the run."""
        replies = list(replies)
        self._round.faults |= {
            reply.metadata.src_node_id: reply.error.reason or "error reply"
            for reply in replies
            if reply.has_error()
        }
        answers = {
            reply.metadata.src_node_id: reply.content.config_records[RECORD_KEY_CONFIGS]
            for reply in replies
            if not reply.has_error() and RECORD_KEY_CONFIGS in reply.content.config_records
        }
        self._round.active &= set(answers)
        self._check_alive()
        return {node: answers[node] for node in sorted(self._round.active)}

    def _check_alive(self) -> None:
        for node, near in self._round.neighbours.items():
            left = len(near & self._round.active)
            if left < self._round.threshold:
                raise RunError(
                    f"round {self.current_round}: {left} of {len(near)} clients that hold shares "
                    f"of client {node} are left, {self._round.threshold} are needed; nothing was "
                    "unmasked"
                )

    def _take_keys(self, answers: Mapping[int, ConfigRecord]) -> None:
        self._round.keys = {
            node: [cast("bytes", r[Key.PUBLIC_KEY_1]), cast("bytes", r[Key.PUBLIC_KEY_2])]
            for node, r in answers.items()
        }

    def _key_lists(self) -> dict[int, dict[str, Any]]:
        return {
            node: {
                **{str(near): self._round.keys[near] for near in self._near(node)},
                Key.STAGE: Stage.SHARE_KEYS,
            }
            for node in sorted(self._round.active)
        }

    def _near(self, node: int) -> list[int]:
        return sorted(self._round.neighbours[node] & self._round.active)

    def _forward(self, answers: Mapping[int, ConfigRecord]) -> dict[int, dict[str, Any]]:
        """Return for each client the encrypted shares that the others addressed to it."""
        self._round.masking = set(answers)
        sources: dict[int, list[int]] = {node: [] for node in answers}
        boxes: dict[int, list[bytes]] = {node: [] for node in answers}
        for source, record in answers.items():
            targets = cast("list[int]", record[Key.DESTINATION_LIST])
            texts = cast("list[bytes]", record[Key.CIPHERTEXT_LIST])
            for target, text in zip(targets, texts, strict=True):
                if target in boxes:
                    sources[target].append(source)
                    boxes[target].append(text)
        return {
            node: {
                Key.STAGE: Stage.COLLECT_MASKED_VECTORS,
                Key.CIPHERTEXT_LIST: boxes[node],
                Key.SOURCE_LIST: sources[node],
            }
            for node in answers
        }

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the masked vectors, collect what unmasks the sum, return the new model."""
        if self.layout is None or self._global_vector is None:
            raise RuntimeError("aggregate_train was called before configure_train")
        uploaded = self._answers(replies)
        self._add_up(uploaded)
        mean = self._unmask(tuple(uploaded), self._exchange(self._unmask_requests()))
        none = torch.empty(0, dtype=torch.float64)
        bare = ClientUpdates(
            torch.empty(0, self.layout.size), none, (), self._global_vector, self.layout
        )
        seen = group_updates([mean], bare)
        absent = {
            node: self._round.faults.get(node, "no reply")
            for node in self._asked
            if node not in uploaded
        }
        updates, verdict = client_view([mean], seen, self.combine(seen), absent)
        for observer in self.observers:
            observer(server_round, updates, verdict)
        metrics = MetricRecord({"accepted": len(uploaded), "rejected": len(absent), "trips": 4})
        return self.layout.to_arrays(self._global_vector + verdict.delta), metrics

    def _add_up(self, answers: Mapping[int, ConfigRecord]) -> None:
        total: list[np.ndarray] = []
        for record in answers.values():
            blobs = cast("list[bytes]", record[Key.MASKED_PARAMETERS])
            vectors = [bytes_to_ndarray(blob) for blob in blobs]
            total = [a + b for a, b in zip(total, vectors, strict=True)] if total else vectors
        self._round.masked = [vector % _MODULUS for vector in total]

    def _unmask_requests(self) -> dict[int, dict[str, Any]]:
        dead = self._round.masking - self._round.active
        return {
            node: {
                Key.STAGE: Stage.UNMASK,
                Key.ACTIVE_NODE_ID_LIST: self._near(node),
                Key.DEAD_NODE_ID_LIST: sorted(self._round.neighbours[node] & dead),
            }
            for node in sorted(self._round.active)
        }

    def _unmask(self, uploaded: tuple[int, ...], answers: Mapping[int, ConfigRecord]) -> GroupMean:
        shares: dict[int, list[bytes]] = {}
        for record in answers.values():
            nodes = cast("list[int]", record[Key.NODE_ID_LIST])
            texts = cast("list[bytes]", record[Key.SHARE_LIST])
            for node, text in zip(nodes, texts, strict=True):
                shares.setdefault(node, []).append(text)
        total = self._round.masked
        for node, parts in sorted(shares.items()):
            for sign, mask in self._masks(node, combine_shares(parts), set(uploaded)):
                total = [(a + sign * b) % _MODULUS for a, b in zip(total, mask, strict=True)]
        return self._mean_of(total, uploaded)

    def _masks(
        self, node: int, secret: bytes, uploaded: set[int]
    ) -> list[tuple[int, list[np.ndarray]]]:
        """Return the masks to add to the sum: a client's own, or those left by one that is gone."""
        shapes = [vector.shape for vector in self._round.masked]
        if node in uploaded:
            return [(-1, pseudo_rand_gen(secret, _MODULUS, shapes))]
        masks = []
        for near in sorted((self._round.neighbours[node] & uploaded) - {node}):
            key = generate_shared_key(
                bytes_to_private_key(secret), bytes_to_public_key(self._round.keys[near][0])
            )
            masks.append((1 if node > near else -1, pseudo_rand_gen(key, _MODULUS, shapes)))
        return masks

    def _mean_of(self, total: list[np.ndarray], uploaded: tuple[int, ...]) -> GroupMean:
        assert self.layout is not None
        weight, vectors = factor_extract(total)
        ratio = float(weight) / self.quantization_range
        values = dequantize(vectors, self.clipping_range, self.quantization_range)[0]
        values = (values - (len(uploaded) - 1) * self.clipping_range) / ratio
        mean = upscaled(torch.from_numpy(values.reshape(-1)), self.layout).numpy()
        return GroupMean(mean, ratio * self.max_weight, 0.0, uploaded)

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the weighted mean; of one row where masks hid all others."""
        weights = updates.num_examples / updates.num_examples.sum()
        return Verdict(weighted_mean(updates.deltas, weights), weights)
