"""Fixed runs whose models must not change when the code is moved: one per family of parts.

Runs every configuration below with the fedguard of a source tree and prints the SHA-256 of its
``model.safetensors``. Digests depend on machine and library versions, so two trees are compared on
one machine, in one go:

    python simulations/same_models.py --before ../fedguard-before

``--only NAME...`` runs some of them. Encrypted runs draw secret keys and noise, which no seed may
repeat: two runs of one tree differ by up to 1.1e-3 under the default attack. Their models are
compared to 5e-3 instead.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Fixed:
    """One run: its flags, and how it is treated."""

    flags: str
    kill_after: int = 0
    """Round after which the process is killed and the run resumed; 0 for never."""
    tolerance: float = 0.0
    """Largest difference of an entry that counts as equal; 0 for bit-equality."""


RUNS = {
    "geminiguard": Fixed("--strategy geminiguard --rounds 4"),
    "krum-nnm": Fixed("--strategy multi-krum --pre nnm --attack alie --rounds 4"),
    "coordinates": Fixed(
        "--strategy trimmed-mean --attack min-max --attack-knowledge full --momentum 0.9 "
        "--rounds 4 --fraction 0.6"
    ),
    "server-data": Fixed("--strategy fltrust --attack badnets --rounds 4 --model cnn"),
    "scores": Fixed("--strategy weidetect --attack label-flip --rounds 4"),
    "history": Fixed("--strategy fldetector --attack a3fl --rounds 4 --weight-decay 0.01"),
    "noise": Fixed("--strategy flame --attack neurotoxin --rounds 4 --executor reuse"),
    "flower": Fixed("--strategy flwr.serverapp.strategy:FedAdam --attack alie --rounds 4"),
    "vertical": Fixed("--strategy opus-vfl --clients 4 --rounds 3 --attack vertical-backdoor"),
    "unlearning": Fixed(
        "--strategy soul --attack badnets --rounds 6 --set 'unlearn=[{client: 3, round: 3}]'"
    ),
    "xmkckks": Fixed("--strategy xmkckks --clients 5 --rounds 2", tolerance=5e-3),
    "ckks": Fixed("--strategy ckks --clients 5 --rounds 2", tolerance=5e-3),
    "secagg": Fixed("--strategy secagg+ --clients 5 --rounds 2", tolerance=5e-3),
    "resumed": Fixed("--strategy foolsgold --attack mimic --rounds 8", kill_after=3),
    "resumed-unlearning": Fixed(
        "--strategy soul --attack badnets --rounds 8 --set 'unlearn=[{client: 3, round: 3}]'",
        kill_after=4,
    ),
    "ray": Fixed("--strategy median --engine ray --workers 2 --rounds 3"),
    "flower-engine": Fixed("--strategy dnc --engine flower --rounds 2 --clients 6"),
    "faulty": Fixed(
        "--strategy signguard --attack ipm --rounds 5 --set faults.dropout=0.2 "
        "--set faults.corrupt=0.2 --set faults.delay=0.2 --set faults.duplicate=0.1"
    ),
}


def run(tree: Path, name: str, out: Path) -> str:
    """Run one configuration with a tree's fedguard; return how long it took and its digest."""
    fixed = RUNS[name]
    command = [
        sys.executable,
        "-m",
        "fedguard.simulate",
        *shlex.split(fixed.flags),
        "--out",
        str(out),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "FLWR_TELEMETRY_ENABLED": "0"}
    if fixed.kill_after:
        _start_and_kill(command, environment, tree, out, fixed.kill_after)
        command.append("--resume")
    done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed in {tree}: {done.stderr[-2000:]}")
    return sha256((out / "model.safetensors").read_bytes()).hexdigest()


def _start_and_kill(
    command: list[str], environment: dict[str, str], tree: Path, out: Path, rounds: int
) -> None:
    """Start a run and kill it once it has recorded `rounds` rounds."""
    with subprocess.Popen(
        command, env=environment, cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        records = out / "rounds.jsonl"
        while process.poll() is None:
            if records.exists() and records.read_text().count("\n") > rounds:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference of an entry between two runs' models."""
    a, b = (load_file(path / "model.safetensors") for path in (one, other))
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def main() -> int:
    """Run both trees and compare; return 0 if every model is as it was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--before", type=Path, required=True, help="source tree to compare with")
    parser.add_argument("--keep", type=Path, help="folder that keeps the older tree's runs")
    parser.add_argument("--only", nargs="+", choices=sorted(RUNS), default=list(RUNS))
    arguments = parser.parse_args()
    kept = arguments.keep or Path(tempfile.mkdtemp())
    worst = 0
    for name in arguments.only:
        before, now = kept.resolve() / name, Path(tempfile.mkdtemp()) / name
        if not (before / "summary.json").exists():
            shutil.rmtree(before, ignore_errors=True)
            run(arguments.before.resolve(), name, before)
        digest = sha256((before / "model.safetensors").read_bytes()).hexdigest()
        found = run(HERE, name, now)
        off, allowed = largest_difference(before, now), RUNS[name].tolerance
        same = found == digest if not allowed else off <= allowed
        worst |= not same
        verdict = "same" if same else "DIFFERENT"
        print(f"{name:20} {digest[:16]} {found[:16]} {off:8.1e}  {verdict}", flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main())
