"""Sends cells to nurseries, several at a time, and keeps each outcome in a file of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from fedguard.auditing.cell import Cell
from fedguard.auditing.project import Project
from fedguard.errors import ConfigurationError, RunError
from fedguard.records.writer import jsonable, write_atomically

FAILED = "failed"
"""How a cell has ended that says nothing of the app: what should have run it did not."""

_ATTEMPTS = 2

START = 300.0
"""Seconds that an app may take to be imported."""


class Nursery:
    """A process that has imported the app; see `fedguard.auditing.nursery`.

    Parameters
    ----------
    project : Project
        The app.
    folder : Path
        The audit's folder.

    Raises
    ------
    ConfigurationError
        If the app cannot be imported.
    """

    def __init__(self, project: Project, folder: Path) -> None:
        if not hasattr(os, "fork"):
            raise RunError("an audit needs a system that can fork (Linux, macOS, WSL)")
        environment = {
            "FLWR_TELEMETRY_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
            "RAY_worker_niceness": "0",  # or who is busy beside it lets no client answer
            **os.environ,
        }
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        with (folder / "app.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedguard.auditing.nursery"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )
        # Importing somebody's app can hang as well.
        late = threading.Timer(START, self.process.kill)
        late.start()
        try:
            told = self._ask({"project": project.plain(), "folder": str(folder.resolve())})
        except RunError:
            if not late.is_alive():
                reason = f"it is still being imported after {START:.0f} s"
                raise ConfigurationError(
                    "PATH", project.folder, f"an app that imports ({reason})"
                ) from None
            raise
        finally:
            late.cancel()
        if "error" in told:
            self.close()
            raise ConfigurationError("PATH", project.folder, str(told["error"]))

    def _ask(self, value: Any) -> dict[str, Any]:
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise RunError("the audit's own process has no pipes")
        try:
            stdin.write(json.dumps(value) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RunError("the process that imports the app has died; its output is in app.log")
        found: dict[str, Any] = json.loads(line)
        return found

    def run(self, cell: Cell, path: Path, seconds: float) -> dict[str, Any]:
        """Return a cell's outcome."""
        return self._ask({"cell": asdict(cell), "path": str(path.resolve()), "seconds": seconds})

    def close(self) -> None:
        """End the process; a cell that it is still at ends with it."""
        self.process.terminate()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class Ward:
    """Runs cells, a few at a time; what is on disk already is not run again.

    Parameters
    ----------
    project : Project
        The app.
    folder : Path
        The audit's folder.
    workers : int
        Processes that run cells at the same time.
    tell : callable
        Called with each finished cell, its outcome and whether it was known before.

    Attributes
    ----------
    limit : float
        Seconds after which a cell counts as hung.
    """

    def __init__(
        self,
        project: Project,
        folder: Path,
        workers: int,
        tell: Callable[[Cell, dict[str, Any], bool], None],
    ) -> None:
        self.project, self.folder, self.workers, self.tell = project, folder, workers, tell
        self.limit = math.inf
        self.outcomes: dict[str, dict[str, Any]] = {}
        self._free: SimpleQueue[Nursery] = SimpleQueue()
        self._all: list[Nursery] = []
        (folder / "cells").mkdir(parents=True, exist_ok=True)

    def run(self, cells: Sequence[Cell], deadline: float) -> dict[str, dict[str, Any]]:
        """Run cells until the deadline of `time.monotonic`; return the outcomes that there are.

        A cell that the deadline ends, not its own limit, has no outcome.
        """
        fresh = [cell for cell in cells if not self._known(cell)]
        if fresh:
            with ThreadPoolExecutor(min(self.workers, len(fresh))) as pool:
                try:
                    for _ in pool.map(lambda cell: self._one(cell, deadline), fresh):
                        pass
                except BaseException:  # Ctrl-C, too: nobody waits for the cells that run
                    self.close()
                    raise
        return {c.name: self.outcomes[c.name] for c in cells if c.name in self.outcomes}

    def _path(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.name}.json"

    def _known(self, cell: Cell) -> bool:
        if cell.name in self.outcomes:
            return True
        path = self._path(cell)
        if not path.exists():
            return False
        try:
            self.outcomes[cell.name] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return False
        self.tell(cell, self.outcomes[cell.name], True)
        return True

    def _one(self, cell: Cell, deadline: float) -> None:
        if time.monotonic() >= deadline:
            return
        try:
            nursery = self._free.get_nowait()
        except Empty:
            nursery = self._born()
        path = self._path(cell)
        try:
            for attempt in range(_ATTEMPTS):
                seconds = min(self.limit, max(deadline - time.monotonic(), 0.0))
                outcome = nursery.run(cell, path, seconds)
                if outcome["ended"] != FAILED:
                    break
                path.unlink(missing_ok=True)
                if attempt == _ATTEMPTS - 1:
                    raise RunError(str(outcome["reason"]))
        finally:
            self._free.put(nursery)
        if outcome["ended"] == "hung" and seconds < self.limit:
            return
        write_atomically(path, (json.dumps(jsonable(outcome)) + "\n").encode())
        self.outcomes[cell.name] = outcome
        self.tell(cell, outcome, False)

    def _born(self) -> Nursery:
        nursery = Nursery(self.project, self.folder)
        self._all.append(nursery)
        return nursery

    def close(self) -> None:
        """End all processes."""
        for nursery in self._all:
            nursery.close()
