"""SecAgg+: pairwise masks that cancel in the sum, by Flower's own client mod; the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.typing import Mod
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import factor_extract
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.serverapp import Grid
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from fedguard.encryption import secagg_checks as checks
from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.grouping import client_view, group_updates
from fedguard.encryption.protocol.weights import GroupMean, upscaled
from fedguard.encryption.secagg_clients import SecAggClients, secagg_mods
from fedguard.errors import RunError, check_number
from fedguard.randomness import SERVER, numpy_generator
from fedguard.strategies.base import RobustStrategy, weighted_mean
from fedguard.updates import ClientUpdates, Verdict

_MODULUS = 1 << 32

T = TypeVar("T")
Reader = Callable[[int, checks.Reply], T]
"""Returns what a reply of a client holds, checked; raises `ProtocolError`."""


@dataclass
class _Round:
    """What the server knows of one round of the protocol."""

    neighbours: dict[int, set[int]] = field(default_factory=dict)
    threshold: int = 0
    active: set[int] = field(default_factory=set)
    keys: dict[int, list[bytes]] = field(default_factory=dict)
    masking: set[int] = field(default_factory=set)
    uploaded: set[int] = field(default_factory=set)
    masked: list[np.ndarray] = field(default_factory=list)

    @property
    def shares(self) -> int:
        """Number of shares of every secret."""
        return max(map(len, self.neighbours.values()))


class SecAggPlus(RobustStrategy):
    r"""Average updates under masks that cancel; the server sees the sum alone.

    Shares of a client's own seed are collected if it stayed, and of the key behind its pairwise
    masks if it vanished.

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

    Notes
    -----
    .. math::
       y_i = Q(w_i \delta_i) + \mathrm{PRG}(b_i) + \sum_{j < i} \mathrm{PRG}(k_{ij})
       - \sum_{j > i} \mathrm{PRG}(k_{ij}) \pmod{2^{32}}, \qquad
       \delta = \frac{1}{\sum_i w_i} Q^{-1} \left( \sum_i (y_i - \mathrm{PRG}(b_i)) \right)

    where nobody vanished; :math:`\delta_i` is client i's update, :math:`w_i` its examples by
    `max_weight`, at most 1, Q clips and rounds, :math:`b_i` is i's own seed,
    :math:`k_{ij} = k_{ji}` the key that it shares with its neighbour j.
    """

    traits = RobustStrategy.traits.but(smallest_cohort=3, visible="sum", client_side=True)

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
        self._model: Mapping[str, Any] = {}
        self._faults: dict[int, str] = {}
        self._round = _Round()

    def client_side(self, grid: Grid) -> Grid:
        """Return a grid whose clients run Flower's mod, in this process, on what `grid` trains."""
        return SecAggClients(grid)

    def client_mods(self, node_config: Mapping[str, object]) -> list[Mod]:
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
        self._faults = {}
        self._model = {self.arrayrecord_key: arrays, self.configrecord_key: config}
        return self._begin(self._asked)

    def _begin(self, cohort: tuple[int, ...]) -> list[Message]:
        """Exchange keys and key shares; return the messages that ask for masked vectors."""
        self._round = self._draw_neighbours(cohort)
        settings = self._settings()
        self._take_keys(self._exchange(dict.fromkeys(cohort, settings), self._read_keys))
        forwarded = self._forward(self._exchange(self._key_lists(), self._read_boxes))
        return [self._message(node, record, self._model) for node, record in forwarded.items()]

    def _draw_neighbours(self, cohort: tuple[int, ...]) -> _Round:
        """Place the clients on a ring; each shares its secrets with those nearby."""
        count, server_round = len(cohort), self.current_round
        if count < 3:
            raise RunError(f"secagg+ needs at least 3 clients, round {server_round} has {count}")
        shares = min(max(round(self.num_shares * count), 3), count)
        half = shares // 2
        order = numpy_generator(self.seed, server_round, SERVER, "neighbours").permutation(count)
        ring = [cohort[position] for position in order]
        neighbours = {
            node: {ring[(place + offset) % count] for offset in range(-half, half + 1)}
            for place, node in enumerate(ring)
        }
        held = min(len(near) for near in neighbours.values())
        threshold = min(max(round(self.reconstruction_threshold * shares), 2), held)
        return _Round(neighbours, threshold, set(cohort))

    def _settings(self) -> dict[str, Any]:
        return {
            Key.STAGE: Stage.SETUP,
            Key.SAMPLE_NUMBER: len(self._round.neighbours),
            Key.SHARE_NUMBER: self._round.shares,
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

    def _exchange(self, records: Mapping[int, Mapping[str, Any]], read: Reader[T]) -> dict[int, T]:
        assert self._grid is not None
        messages = [self._message(node, record) for node, record in sorted(records.items())]
        replies = self._grid.send_and_receive(messages, timeout=self.trip_timeout)
        answers = self._answers(replies, read)
        self._check_alive()
        return answers

    def _answers(self, replies: Iterable[Message], read: Reader[T]) -> dict[int, T]:
        """Return what the clients that are still there sent, read and checked; note the others."""
        found: dict[int, T] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                self._faults[node] = reply.error.reason or "error reply"
                continue
            try:
                if RECORD_KEY_CONFIGS not in reply.content.config_records:
                    raise ProtocolError("its reply holds nothing of the protocol")
                found[node] = read(node, reply.content.config_records[RECORD_KEY_CONFIGS])
            except ProtocolError as error:
                self._faults[node] = str(error)
        self._round.active &= set(found)
        return {node: found[node] for node in sorted(self._round.active)}

    def _read_keys(self, _: int, reply: checks.Reply) -> list[bytes]:
        return checks.read_keys(reply)

    def _read_boxes(self, node: int, reply: checks.Reply) -> dict[int, bytes]:
        return checks.read_boxes(reply, [near for near in self._near(node) if near != node])

    def _read_vectors(self, _: int, reply: checks.Reply) -> list[np.ndarray]:
        assert self.layout is not None
        return checks.read_vectors(reply, self.layout.size, _MODULUS)

    def _read_shares(self, node: int, reply: checks.Reply) -> dict[int, bytes]:
        return checks.read_shares(reply, *self._unmasked_by(node), self._round.shares)

    def _check_alive(self) -> None:
        for node, near in self._round.neighbours.items():
            left = len(near & self._round.active)
            if left < self._round.threshold:
                raise RunError(
                    f"round {self.current_round}: {left} of {len(near)} clients that hold shares "
                    f"of client {node} are left, {self._round.threshold} are needed; nothing was "
                    "unmasked"
                )

    def _take_keys(self, answers: Mapping[int, list[bytes]]) -> None:
        self._round.keys = dict(answers)
        for node in checks.repeated_keys(answers):
            self._faults[node] = "its public key is another client's as well"
            self._round.active.discard(node)
        self._check_alive()

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

    def _forward(self, answers: Mapping[int, Mapping[int, bytes]]) -> dict[int, dict[str, Any]]:
        """Return for each client the encrypted shares that the others addressed to it."""
        self._round.masking = set(answers)
        sources: dict[int, list[int]] = {node: [] for node in answers}
        boxes: dict[int, list[bytes]] = {node: [] for node in answers}
        for source, sealed in answers.items():
            for target, text in sealed.items():
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
        uploaded = self._add_up(self._collect(replies))
        shares = self._exchange(self._unmask_requests(), self._read_shares)
        mean = self._unmask(uploaded, shares)
        none = torch.empty(0, dtype=torch.float64)
        bare = ClientUpdates(
            torch.empty(0, self.layout.size), none, (), self._global_vector, self.layout
        )
        seen = group_updates([mean], bare)
        absent = {
            node: self._faults.get(node, "no reply") for node in self._asked if node not in uploaded
        }
        updates, verdict = client_view([mean], seen, self.combine(seen), absent)
        for observer in self.observers:
            observer(server_round, updates, verdict)
        metrics = MetricRecord({"accepted": len(uploaded), "rejected": len(absent), "trips": 4})
        return self.layout.to_arrays(self._global_vector + verdict.delta), metrics

    def _collect(self, replies: Iterable[Message]) -> dict[int, list[np.ndarray]]:
        """Return the masked vectors; begin once more without clients that spoilt the others' work.

        Whose sealed shares are garbage does not fail itself: where most clients fail, those that
        do not have sent them what they could not read.
        """
        found = self._answers(replies, self._read_vectors)
        failed = self._round.masking - set(found)
        if found and 2 * len(failed) > len(self._round.masking):
            assert self._grid is not None
            honest = tuple(sorted(failed))
            for node in honest:
                self._faults.pop(node, None)
            for node in found:
                self._faults[node] = f"{len(failed)} clients could not use what it sent them"
            again = self._grid.send_and_receive(self._begin(honest), timeout=self.trip_timeout)
            found = self._answers(again, self._read_vectors)
        self._check_alive()
        return found

    def _add_up(self, answers: Mapping[int, list[np.ndarray]]) -> tuple[int, ...]:
        total: list[np.ndarray] = []
        for vectors in answers.values():
            total = [a + b for a, b in zip(total, vectors, strict=True)] if total else vectors
        self._round.masked = [vector % _MODULUS for vector in total]
        return tuple(answers)

    def _unmasked_by(self, node: int) -> tuple[list[int], list[int]]:
        """Return whose mask seed, and whose private key, a client is asked a share of."""
        uploaded = self._round.neighbours[node] & self._round.uploaded
        dead = self._round.masking - self._round.uploaded
        return sorted(uploaded), sorted(self._round.neighbours[node] & dead)

    def _unmask_requests(self) -> dict[int, dict[str, Any]]:
        self._round.uploaded = set(self._round.active)
        requests = {}
        for node in sorted(self._round.active):
            active, dead = self._unmasked_by(node)
            requests[node] = {
                Key.STAGE: Stage.UNMASK,
                Key.ACTIVE_NODE_ID_LIST: active,
                Key.DEAD_NODE_ID_LIST: dead,
            }
        return requests

    def _unmask(
        self, uploaded: tuple[int, ...], answers: Mapping[int, Mapping[int, bytes]]
    ) -> GroupMean:
        shares: dict[int, dict[int, bytes]] = {}
        for holder, held in answers.items():
            for node, text in held.items():
                shares.setdefault(node, {})[holder] = text
        try:
            secrets, liars = checks.recover(shares, self._round.threshold, self._fits)
        except ProtocolError as error:
            raise RunError(f"round {self.current_round}: {error}; nothing was unmasked") from error
        for node in liars:
            self._faults[node] = "its shares do not fit those of the others"
        total = self._round.masked
        for node, secret in sorted(secrets.items()):
            for sign, mask in self._masks(node, secret, set(uploaded)):
                total = [(a + sign * b) % _MODULUS for a, b in zip(total, mask, strict=True)]
        return self._mean_of(total, uploaded)

    def _fits(self, node: int, secret: bytes) -> bool:
        if node in self._round.uploaded:
            return len(secret) == 32
        return checks.opens(self._round.keys[node][0], secret)

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
        if weight <= 0:
            raise RunError(f"round {self.current_round}: the clients' weights add up to nothing")
        ratio = float(weight) / self.quantization_range
        values = dequantize(vectors, self.clipping_range, self.quantization_range)[0]
        values = (values - (len(uploaded) - 1) * self.clipping_range) / ratio
        mean = upscaled(torch.from_numpy(values.reshape(-1)), self.layout).numpy()
        return GroupMean(mean, ratio * self.max_weight, 0.0, uploaded)

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the weighted mean; of one row where masks hid all others."""
        weights = updates.num_examples / updates.num_examples.sum()
        return Verdict(weighted_mean(updates.deltas, weights), weights)
