"""Writes a run directory, line by line, so that a crash loses at most the round in flight."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedguard.errors import ConfigurationError

ROUNDS = "rounds.jsonl"
CLIENTS = "clients.jsonl"
SUMMARY = "summary.json"
CONFIG = "config.yaml"
THREAT_MODEL = "threat_model.json"
MODEL = "model.safetensors"
BEST = "best.safetensors"
REPAIRS = "repairs.jsonl"
AUDITS = "audits.jsonl"
FAIRNESS = "fairness.jsonl"

BY_ROUND = (ROUNDS, CLIENTS, REPAIRS, AUDITS, FAIRNESS)
"""Files with lines of one round each."""

WRITTEN_BY_ROUNDS = (*BY_ROUND, SUMMARY, BEST)
"""What a run that begins anew takes away first."""


def jsonable(value: Any) -> Any:
    """Return a value with what JSON cannot hold (NaN, infinities) replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    return value


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part.

    It survives a power cut once the function returns: file and folder are on disk then. Where it
    cannot be written, the old file stays and nothing is left over.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk; file systems that cannot are left alone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


class Recorder:
    """The files of one run directory.

    Parameters
    ----------
    directory : Path
        Made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            probe = directory / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigurationError(
                "out", str(directory), f"a folder that can be written ({error.strerror})"
            ) from error

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Write ``config.yaml``."""
        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        write_atomically(self.directory / CONFIG, text.encode())

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write one JSON object into a file of the run directory."""
        text = json.dumps(jsonable(value), indent=2, ensure_ascii=False)
        write_atomically(self.directory / name, text.encode() + b"\n")

    def append(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records to a ``.jsonl`` file and flush it."""
        lines = [json.dumps(jsonable(record), ensure_ascii=False) for record in records]
        with (self.directory / name).open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)

    def truncate_after(self, last_round: int) -> None:
        """Drop records of rounds after `last_round`, and a line that a crash cut short."""
        for name in BY_ROUND:
            path = self.directory / name
            if path.exists():
                kept = [r for r in read_jsonl(path) if r["round"] <= last_round]
                text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
                write_atomically(path, text.encode())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the records of a ``.jsonl`` file; a last line cut short by a crash is left out."""
    records = []
    # Not splitlines(): a reason from outside may hold a Unicode line separator.
    for line in path.read_text(encoding="utf-8").split("\n"):
        if not line:
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
