"""`LedgerFile`: a client's ledger on its own disk, so that it outlives the client's process."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedguard.encryption.errors import RefusedError
from fedguard.encryption.protocol.agreement import Payload

_COLUMNS = ("runs", "models", "cohorts")


class LedgerFile:
    """A ledger's file: JSON, one entry per training that the client let go of.

    Parameters
    ----------
    path : Path
        Where it is; made with the first entry. Its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes of the same client waiting: each answers with the ledger as it is.

        Raises
        ------
        RefusedError
            If the file's folder cannot be written; a client that cannot remember does not answer.
        """
        try:
            lock = self.path.with_name(self.path.name + ".lock").open("w")
        except OSError as error:
            reason = error.strerror or str(error)
            raise RefusedError(f"the ledger {self.path} cannot be kept: {reason}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read(self) -> Payload | None:
        """Return the ledger as `Ledger` keeps it in a memory; None before the first entry.

        Raises
        ------
        RefusedError
            If the file cannot be read; a client that has forgotten does not answer.
        """
        if not self.path.exists():
            return None
        try:
            found = json.loads(self.path.read_text())
            rounds = [int(value) for value in found["rounds"]]
            columns = {name: [bytes.fromhex(v) for v in found[name]] for name in _COLUMNS}
            if any(len(column) != len(rounds) for column in columns.values()):
                raise ValueError("its columns differ in length")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"the ledger {self.path} cannot be read: {error}") from error
        return {"rounds": rounds, **columns}

    def write(self, payload: Mapping[str, object]) -> None:
        """Replace the file; on the disk before this returns."""
        written = {
            name: [value.hex() if isinstance(value, bytes) else value for value in values]
            for name, values in payload.items()
            if isinstance(values, list)
        }
        beside = self.path.with_name(self.path.name + ".new")
        with beside.open("w") as file:
            json.dump(written, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)
