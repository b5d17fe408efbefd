"""Checkpoints: atomic, checksummed, versioned; the newest good one is found again after a crash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedguard.errors import RunError
from fedguard.records.writer import write_atomically

VERSION = 3
_MANIFEST = "manifest.json"
_PREFIXES = {
    "strategy_state": "strategy.",
    "grid_state": "grid.",
    "client_state": "client.",
    "attack_state": "attack.",
    "repair_state": "repair.",
}


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after a round.

    Attributes
    ----------
    server_round : int
        Last finished round.
    model : Tensor
        (D,) global model after it.
    previous_model : Tensor
        (D,) global model before it; attacks that look at the last update need it.
    strategy_state : dict of str to Tensor
        What the strategy keeps between rounds.
    seconds : float
        Time the run has taken so far.
    grid_state : dict of str to Tensor
        What is in flight on a faulty network.
    client_state : dict of str to Tensor
        What clients' training rules keep, as ``CLIENT/NAME``.
    attack_state : dict of str to Tensor
        What the attack keeps between rounds.
    repair_state : dict of str to Tensor
        What the repair keeps up between rounds.
    """

    server_round: int
    model: Tensor
    previous_model: Tensor
    strategy_state: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    grid_state: dict[str, Tensor] = field(default_factory=dict)
    client_state: dict[str, Tensor] = field(default_factory=dict)
    attack_state: dict[str, Tensor] = field(default_factory=dict)
    repair_state: dict[str, Tensor] = field(default_factory=dict)


class CheckpointStore:
    """The newest two checkpoints of a run, in one folder.

    A checkpoint counts once the manifest names it with its checksum. The manifest is replaced
    atomically after the tensors are on disk, so a crash at any moment leaves a good one.

    Parameters
    ----------
    directory : Path
        The run's ``checkpoint`` folder.
    config_digest : str
        Digest of the configuration; a checkpoint of another one is refused.
    """

    def __init__(self, directory: Path, config_digest: str) -> None:
        self.directory = directory
        self.config_digest = config_digest

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and drop all but the newest two."""
        self.directory.mkdir(parents=True, exist_ok=True)
        tensors = {"model": checkpoint.model, "previous_model": checkpoint.previous_model}
        for part, prefix in _PREFIXES.items():
            for name, value in getattr(checkpoint, part).items():
                tensors[prefix + name] = value
        content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
        name = f"round-{checkpoint.server_round:06d}.safetensors"
        older = [item for item in self._entries() if item["round"] < checkpoint.server_round]
        write_atomically(self.directory / name, content)
        entry: dict[str, Any] = {
            "round": checkpoint.server_round,
            "file": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "seconds": checkpoint.seconds,
        }
        manifest: dict[str, Any] = {
            "version": VERSION,
            "config": self.config_digest,
            "checkpoints": [entry, *older[:1]],
        }
        sealed = {**manifest, "sha256": _seal(manifest)}
        write_atomically(self.directory / _MANIFEST, json.dumps(sealed, indent=2).encode())
        named = {item["file"] for item in manifest["checkpoints"]}
        for path in self.directory.glob("round-*.safetensors"):
            if path.name not in named:
                path.unlink()

    def _entries(self) -> list[dict[str, Any]]:
        """Return the manifest's entries, newest first.

        Raises
        ------
        RunError
            If the manifest is damaged or foreign, or another format's or configuration's.
        """
        path = self.directory / _MANIFEST
        try:
            manifest = json.loads(path.read_text())
            seal = manifest.pop("sha256", None)
            version, config = manifest["version"], manifest["config"]
            entries = list(manifest["checkpoints"])
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged() from error
        if version != VERSION:
            raise RunError(
                f"{self.directory}: checkpoint format {version!r}, this fedguard reads {VERSION}; "
                "start again with another --out"
            )
        if seal != _seal(manifest):
            raise self._damaged()
        if config != self.config_digest:
            raise RunError(
                f"{self.directory}: the checkpoint belongs to another configuration; "
                "start again with another --out"
            )
        return entries

    def _damaged(self) -> RunError:
        return RunError(
            f"{self.directory / _MANIFEST}: not an intact checkpoint manifest; "
            "remove the folder to start again"
        )

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint whose checksum is right, or None if none was written.

        Raises
        ------
        RunError
            If checkpoints were written but none of them is intact.
        """
        entries = self._entries()
        for entry in entries:
            found = self._read(entry)
            if found is not None:
                return found
        if entries:
            raise RunError(
                f"{self.directory}: no checkpoint is intact; remove the folder to start again"
            )
        return None

    def _read(self, entry: dict[str, Any]) -> Checkpoint | None:
        try:
            content = (self.directory / Path(str(entry["file"])).name).read_bytes()
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                return None
            tensors = load(content)
            return Checkpoint(
                server_round=int(entry["round"]),
                model=tensors["model"],
                previous_model=tensors["previous_model"],
                seconds=float(entry["seconds"]),
                **{part: _under(prefix, tensors) for part, prefix in _PREFIXES.items()},
            )
        except (OSError, KeyError, TypeError, ValueError, SafetensorError):
            return None


def _seal(manifest: dict[str, Any]) -> str:
    """Return the checksum of a manifest's own content."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}
