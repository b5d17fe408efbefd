"""FedEraser: the old updates, calibrated without the forgotten client."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from fedguard.layout import ParameterLayout
from fedguard.unlearning.method import Erased, Situation, UnlearningMethod
from fedguard.updates import ClientUpdates


class FedEraser(UnlearningMethod):
    """Walk the stored rounds again: the size of each old update, the direction of a new one.

    ``U~_k = |U_k| U^_k / |U^_k|`` with U_k the stored update of client k and U^_k what it answers
    when it trains ``r E`` epochs on the model rebuilt so far; ``M <- M + sum_k p_k U~_k``. The
    first stored round needs no calibration.

    Liu et al., "FedEraser: Enabling Efficient Client-Level Data Removal from Federated Learning
    Models", IWQoS 2021. Updates are stored every few rounds, in a bounded store on disk.
    """

    store: UpdateStore | None = None

    def erase(self, situation: Situation) -> Erased:
        """Return the initial model plus the first stored round of the others."""
        if self.store is None or not self.store.rounds:
            return Erased(situation.initial)
        gone = {request.client for request in situation.requests if request.whole_client}
        first = self.store.read(self.store.rounds[0], situation.layout)
        rows = [row for row, node in enumerate(first.node_ids) if node not in gone]
        if not rows:
            return Erased(situation.initial)
        rest = first.select(rows)
        share = rest.num_examples / rest.num_examples.sum()
        return Erased(situation.initial + share.float() @ rest.deltas)

    @property
    def calibrates(self) -> bool:
        """True; see `UnlearningMethod.calibrates`."""
        return True

    def calibration_epochs(self, local_epochs: int) -> int:
        """Return ``r E``, at least 1."""
        return max(1, round(self.options.calibration_ratio * local_epochs))

    def calibrate(self, stored: ClientUpdates, fresh: ClientUpdates) -> Tensor:
        """Return the mean of the calibrated updates of clients that are in both."""
        old = {node: row for row, node in enumerate(stored.node_ids)}
        pairs = [(old[node], row) for row, node in enumerate(fresh.node_ids) if node in old]
        if not pairs:
            return torch.zeros(fresh.layout.size)
        before = stored.deltas[[a for a, _ in pairs]]
        now = fresh.deltas[[b for _, b in pairs]]
        size = before.double().norm(dim=1) / now.double().norm(dim=1).clamp(min=1e-12)
        weight = stored.num_examples[[a for a, _ in pairs]]
        share = weight / weight.sum()
        delta: Tensor = (share * size).float() @ now
        return delta


class UpdateStore:
    """Every n-th round's client updates, one safetensors file each, within a bound.

    When the files outgrow the bound every other stored round is dropped and the interval doubles,
    so what is left is always spread evenly over the past.

    Parameters
    ----------
    directory : Path
        Where the files lie.
    interval : int
        Store rounds 1, 1 + interval, ...
    limit : int
        Most bytes on disk.
    """

    def __init__(self, directory: Path, interval: int, limit: int) -> None:
        self.directory = directory
        self.limit = limit
        self._note = directory / "interval"
        self.interval = int(self._note.read_text()) if self._note.exists() else interval

    def _path(self, server_round: int) -> Path:
        return self.directory / f"round-{server_round:06d}.safetensors"

    @property
    def rounds(self) -> list[int]:
        """Stored rounds, oldest first."""
        found = self.directory.glob("round-*.safetensors")
        return sorted(int(path.stem.removeprefix("round-")) for path in found)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(self._path(server_round).stat().st_size for server_round in self.rounds)

    def add(self, updates: ClientUpdates) -> None:
        """Store a round's updates if it is one of those to keep."""
        if (updates.server_round - 1) % self.interval or not len(updates):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        tensors = {
            "deltas": updates.deltas.contiguous(),
            "num_examples": updates.num_examples,
            "node_ids": torch.tensor(updates.node_ids, dtype=torch.int64),
        }
        _write(self._path(updates.server_round), save(tensors))
        while self.size > self.limit and len(self.rounds) > 1:
            self.interval *= 2
            _write(self._note, str(self.interval).encode())
            for server_round in self.rounds:
                if (server_round - 1) % self.interval:
                    self._path(server_round).unlink()

    def read(self, server_round: int, layout: ParameterLayout) -> ClientUpdates:
        """Return the updates of a stored round."""
        tensors = load_file(self._path(server_round))
        return ClientUpdates.from_matrix(
            tensors["deltas"],
            tensors["num_examples"],
            tensors["node_ids"].tolist(),
            layout=layout,
            server_round=server_round,
        )

    def drop_after(self, server_round: int) -> None:
        """Drop what was stored after a round, as a run that is resumed there does."""
        for stored in self.rounds:
            if stored > server_round:
                self._path(stored).unlink()

    def clear(self) -> None:
        """Drop everything, as a run that starts anew does."""
        self.drop_after(0)
        self._note.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
