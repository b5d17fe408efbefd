"""Faults put into the code one at a time, to see whether the room's own tests notice.

    python -m tests.mutations              # all of them, a minute or two each room
    python -m tests.mutations vertical     # one room's

Every list ``MUTATIONS`` in this folder holds (file, exact text that occurs once, its replacement,
tests that must fail). A fault that no test notices is printed; the exit code is their number. The
files are put back whatever happens. Not part of ``make test``: it writes into the source tree.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Mutation = tuple[str, str, str, str]


def rooms() -> list[str]:
    """Return the rooms that have mutations."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def noticed(mutation: Mutation) -> bool:
    """Return whether the named tests fail on a fault."""
    name, old, new, tests = mutation
    path = ROOT / name
    whole = path.read_text(encoding="utf-8")
    if whole.count(old) != 1:
        raise SystemExit(f"{name}: {whole.count(old)} times in the file: {old!r}")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        path.write_text(whole.replace(old, new), encoding="utf-8")
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    finally:
        path.write_text(whole, encoding="utf-8")
    if done.returncode not in (0, 1):
        print(f"{name}: pytest ended with {done.returncode}, no fair fault: {done.stdout[-500:]}")
    return done.returncode == 1


def main(chosen: list[str]) -> int:
    """Try every fault of the chosen rooms; return how many go unnoticed."""
    missed = total = 0
    for room in chosen or rooms():
        for mutation in importlib.import_module(f"tests.mutations.{room}").MUTATIONS:
            started = time.monotonic()
            seen = noticed(mutation)
            total += 1
            missed += not seen
            verdict = "noticed" if seen else "UNNOTICED"
            first = mutation[1].strip().splitlines()[0][:60]
            took = f"({time.monotonic() - started:.0f} s)"
            print(f"{verdict:9} {room:12} {mutation[0]}: {first} {took}", flush=True)
    print(f"{total - missed} of {total} noticed")
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
