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
from fedguard.reporting.recorder import write_atomically

VERSION = 1
_MANIFEST = "manifest.json"
_STATE_PREFIX = "strategy."


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
    """

    server_round: int
    model: Tensor
    previous_model: Tensor
    strategy_state: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


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
        for name, value in checkpoint.strategy_state.items():
            tensors[_STATE_PREFIX + name] = value
        content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
        name = f"round-{checkpoint.server_round:06d}.safetensors"
        write_atomically(self.directory / name, content)
        entry: dict[str, Any] = {
            "round": checkpoint.server_round,
            "file": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "seconds": checkpoint.seconds,
        }
        older = [item for item in self._entries() if item["round"] < checkpoint.server_round]
        manifest = {
            "version": VERSION,
            "config": self.config_digest,
            "checkpoints": [entry, *older[:1]],
        }
        write_atomically(self.directory / _MANIFEST, json.dumps(manifest, indent=2).encode())
        named = {item["file"] for item in (entry, *older[:1])}
        for path in self.directory.glob("round-*.safetensors"):
            if path.name not in named:
                path.unlink()

    def _entries(self) -> list[dict[str, Any]]:
        try:
            manifest = json.loads((self.directory / _MANIFEST).read_text())
            entries = manifest["checkpoints"]
            if manifest["version"] != VERSION:
                raise RunError(
                    f"{self.directory}: checkpoint format {manifest['version']!r}, this fedguard "
                    f"reads {VERSION}; start again with another --out"
                )
            if manifest["config"] != self.config_digest:
                raise RunError(
                    f"{self.directory}: the checkpoint belongs to another configuration; "
                    "start again with another --out"
                )
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.directory / _MANIFEST}: not a checkpoint manifest; "
                "remove the folder to start again"
            ) from error
        return list(entries)

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
                strategy_state={
                    name.removeprefix(_STATE_PREFIX): value
                    for name, value in tensors.items()
                    if name.startswith(_STATE_PREFIX)
                },
                seconds=float(entry["seconds"]),
            )
        except (OSError, KeyError, TypeError, ValueError, SafetensorError):
            return None
