"""The process that imports somebody's app once and runs each cell in a child of its own.

``python -m fedguard.auditing.nursery`` reads the project from the first line of its standard input
and one cell from each line after it; for each it writes one line. A child that hangs, exits, breaks
or prints anything is only that: a child.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch

from fedguard.auditing.cell import Cell, perform, save
from fedguard.auditing.hook import DataHook
from fedguard.auditing.nurses import FAILED
from fedguard.auditing.project import Project, function_of
from fedguard.errors import ConfigurationError, RunError
from fedguard.records.writer import jsonable, write_atomically

_POLL = 0.02

_LIVE: set[int] = set()
"""Children that run."""


def main() -> int:
    """Serve one audit; return 0 once its standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the app prints is no answer
    sys.stdout = sys.stderr
    given = json.loads(sys.stdin.readline())
    project = Project(**given["project"])
    folder = Path(given["folder"])
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, _ended)
    try:
        project.enter(folder / "scratch" / str(os.getpid()))
        apps = project.load()
        if project.evaluate is not None:
            function_of("evaluate", project.evaluate)
        hook = None
        if project.data is not None:
            hook = DataHook(function_of("data", project.data))
            hook.install()
    except ConfigurationError as error:
        _say(answers, {"error": str(error)})
        return 2
    signal.signal(signal.SIGTERM, _ended)  # the app may have set its own
    getLogger("flwr").setLevel(ERROR)
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # what its first use imports takes seconds, in every child
    gc.freeze()
    _say(answers, {"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        path = Path(job["path"])
        _say(answers, _raised(project, apps, hook, Cell.of(job["cell"]), path, job["seconds"]))
    return 0


def _ended(number: int, frame: object) -> None:
    """End with all children and theirs."""
    for child in _LIVE:
        _kill(child)
    os._exit(1)


def _kill(child: int) -> None:
    """Kill a child with whatever processes it has started."""
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _kill_group(child)


def _kill_group(child: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _say(answers: Any, value: dict[str, Any]) -> None:
    answers.write(json.dumps(jsonable(value)) + "\n")
    answers.flush()


def _raised(
    project: Project, apps: Any, hook: DataHook | None, cell: Cell, path: Path, seconds: float
) -> dict[str, Any]:
    """Run a cell in a child; return its outcome, or what became of the child."""
    started = time.monotonic()
    path.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _live(project, apps, hook, cell, path)
    _LIVE.add(child)
    try:
        return _awaited(child, path, started, seconds)
    finally:
        _kill_group(child)  # what it has started, and left behind
        _LIVE.discard(child)


def _awaited(child: int, path: Path, started: float, seconds: float) -> dict[str, Any]:
    while time.monotonic() - started < seconds:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if path.exists():
                found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                return found
            code = os.waitstatus_to_exitcode(status)
            words = f"signal {-code}" if code < 0 else f"code {code}"
            return _lost("died", f"the process ended with {words}", started)
        time.sleep(_POLL)
    _kill(child)
    os.waitpid(child, 0)
    return _lost("hung", f"still running after {seconds:.0f} s", started)


def _lost(ended: str, reason: str, started: float) -> dict[str, Any]:
    return {
        "ended": ended,
        "reason": reason,
        "metrics": {},
        "untrained": {},
        "rounds": 0,
        "waited": 0.0,
        "applied": 1,
        "failures": [],
        "moved": None,
        "averageable": True,
        "seconds": time.monotonic() - started,
    }


def _live(project: Project, apps: Any, hook: DataHook | None, cell: Cell, path: Path) -> None:
    """Run a cell, write its outcome, and leave without looking back."""
    code = 0
    started = time.monotonic()
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with (path.with_suffix(".log")).open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        outcome = save(perform(project, apps, cell, hook), path)
        write_atomically(path, (json.dumps(jsonable(outcome)) + "\n").encode())
    except BaseException as error:  # the log has all of it
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        outcome = _lost(FAILED if isinstance(error, RunError) else "died", reason, started)
        write_atomically(path, (json.dumps(jsonable(outcome)) + "\n").encode())
        code = 1
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
