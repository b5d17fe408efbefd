"""Keeps a SuperNode or a SuperLink together with its SuperExec; the health check looks with it.

``supervise.py PIDFILE COMMAND ...`` runs a command and ends with it, or, as a failure, soon after
the SuperExec that it started has ended: Flower 1.41 does not notice, and answers health checks
while no app of its can start.

``supervise.py --look PIDFILE URL`` exits with 0 where both run and the URL answers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

EXECUTOR = b"flower-superexec"

START = 900.0
"""Seconds that a command has until its SuperExec runs: three minutes were seen at a load of 26."""

LOOK = 2.0
"""Seconds between two looks."""


def executor_of(parent: int) -> int | None:
    """Return the process id of a process's SuperExec, if it has a living one."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # After the command's name, which may hold anything: state, then the parent's id.
            state, above = (process / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(above) != parent or state == "Z":
                continue
            if EXECUTOR in (process / "cmdline").read_bytes():
                return int(process.name)
        except (OSError, ValueError):
            continue  # it has just ended
    return None


def run(pidfile: Path, command: list[str]) -> int:
    """Run a command until it or its SuperExec ends; return the exit status for this process."""
    # Whatever ends this process ends the command too; its SuperExec ends with its parent by itself.
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: process.send_signal(got))
    pidfile.parent.mkdir(parents=True, exist_ok=True)
    pidfile.write_text(str(process.pid))
    seen, deadline = False, time.monotonic() + START
    while True:
        try:
            status = process.wait(LOOK)
        except subprocess.TimeoutExpired:
            pass
        else:
            return status if status >= 0 else 128 - status
        found = executor_of(process.pid) is not None
        seen = seen or found
        if found or (not seen and time.monotonic() < deadline):
            continue
        if process.poll() is None:
            what = "has ended" if seen else f"did not start within {START:g} s"
            print(f"{pidfile.stem}: its SuperExec {what}; ending, to be started anew", flush=True)
            end(process)
            return 1


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, by force where it takes longer than ten seconds."""
    process.terminate()
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def look(pidfile: Path, url: str) -> int:
    """Return 0 where the supervised process answers and its SuperExec runs, else 1."""
    try:
        process = int(pidfile.read_text())
        os.kill(process, 0)
        urllib.request.urlopen(url, timeout=5).read()
    except (OSError, ValueError) as error:
        print(f"not healthy: {error}")
        return 1
    if executor_of(process) is None:
        print("not healthy: its SuperExec does not run")
        return 1
    return 0


if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    if first == "--look":
        sys.exit(look(Path(rest[0]), rest[1]))
    sys.exit(run(Path(first), rest))
