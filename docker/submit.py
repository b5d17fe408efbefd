"""Talks to a SuperLink for docker/federation.sh: enrol SuperNodes, start a run and wait for it.

``submit.py enrol KEY.pub ...`` registers public keys; one that is registered already stays.
``submit.py run APP [FLWR RUN ARGUMENTS]`` starts a run, shows its log and exits with 0 where the
run completed and 1 where it did not.
"""

from __future__ import annotations

import json
import subprocess
import sys

SLOW = ("No heartbeat", "401", "token authentication")
"""Signs, in what Flower says of a run, that an app's process was too slow or died."""


def flwr(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Flower's and return what it printed."""
    return subprocess.run(["flwr", *arguments], capture_output=True, text=True, check=False)


def answer_of(*arguments: str) -> dict[str, object]:
    """Run a command of Flower's and return its JSON answer; exit with its complaint if it fails."""
    done = flwr(*arguments, "--format", "json")
    start = done.stdout.find("{")
    try:
        found, _ = json.JSONDecoder().raw_decode(done.stdout[max(start, 0) :])
    except json.JSONDecodeError:
        sys.exit((done.stdout + done.stderr).strip() or f"flwr {arguments[0]} failed")
    if not found.get("success"):
        sys.exit(f"flwr {arguments[0]}: {found.get('error-message', found)}")
    return dict(found)


def enrol(public_keys: list[str]) -> None:
    """Register the SuperNodes' public keys."""
    commands = [
        subprocess.Popen(
            ["flwr", "supernode", "register", key],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for key in public_keys
    ]
    refused = []
    for key, command in zip(public_keys, commands, strict=True):
        said, _ = command.communicate()
        if command.returncode != 0 and "already in use" not in said:
            refused.append(f"{key}: {said.strip()}")
    if refused:
        sys.exit("\n".join(refused))
    print(f"{len(public_keys)} SuperNodes are enrolled")


def run(app: str, arguments: list[str]) -> int:
    """Start a run, follow its log to the end and return 0 if it completed."""
    identity = str(answer_of("run", app, *arguments)["run-id"])
    print(f"run {identity}", flush=True)
    subprocess.run(["flwr", "log", identity, "--stream"], check=False)
    runs = answer_of("list", "--run-id", identity)["runs"]
    assert isinstance(runs, list)
    status, details = runs[0]["status"], runs[0]["status-details"]
    print(f"run {identity}: {status}" + ("" if details == "N/A" else f": {details}"))
    if any(sign in str(details) for sign in SLOW):
        print(
            "The ServerApp's process did not start, or gave no sign of life, in time. Where the "
            "machine is busy: a larger APP_PATIENCE for the SuperLink, fewer SuperNodes on it, or "
            "OMP_NUM_THREADS=1. Where the process was killed or out of memory: the SuperLink's log."
        )
    return 0 if status == "finished:completed" else 1


if __name__ == "__main__":
    action, *rest = sys.argv[1:]
    if action == "enrol":
        enrol(rest)
    else:
        sys.exit(run(rest[0], rest[1:]))
