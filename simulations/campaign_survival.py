"""A campaign killed at random moments gives the same result files as an undisturbed one.

Runs the campaign of configs/campaigns/digits_grid.yaml (4 attacks x 4 defences x 3 seeds) once in
peace; then again in another folder, ending the command and all its processes with SIGKILL at two
random moments and starting the same command anew. Result files are compared byte for byte, with
times and memory taken out.

    python -m simulations.campaign_survival
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fedguard.campaigns.cells import comparable_bytes
from simulations.common import ROOT

CAMPAIGN = ROOT / "configs" / "campaigns" / "digits_grid.yaml"


def command(campaign: Path, out: Path, workers: int, settings: list[str]) -> list[str]:
    """Return the one command of a campaign."""
    words = [sys.executable, "-m", "fedguard.simulate", "sweep", str(campaign), "--json"]
    words += ["--out", str(out), "--workers", str(workers)]
    return words + [word for setting in settings for word in ("--set", setting)]


def run_and_kill(words: list[str], log: Path, after_runs: int, delay: float, folder: Path) -> int:
    """Start a campaign; kill it `delay` seconds after `after_runs` runs have ended.

    Only the command itself is killed: what it started must end with it. Returns how many runs
    had ended when it died, or -1 if it had ended before.
    """
    with log.open("ab") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file)
        while process.poll() is None and finished(folder) < after_runs:
            time.sleep(0.02)
        time.sleep(delay)
        if process.poll() is not None:
            return -1
        process.send_signal(signal.SIGKILL)
        process.wait()
    return finished(folder)


def finished(folder: Path) -> int:
    """Return how many runs of a folder have a summary."""
    return len(list(folder.glob("*/summary.json")))


def differences(first: Path, second: Path) -> list[str]:
    """Return the names of result files that differ between two campaign folders."""
    runs = sorted(path.parent.name for path in first.glob("*/summary.json"))
    if runs != sorted(path.parent.name for path in second.glob("*/summary.json")):
        return ["the two folders do not hold the same runs"]
    found = []
    for run in runs:
        one, two = comparable_bytes(first / run), comparable_bytes(second / run)
        found += [f"{run}/{name}" for name in one if one[name] != two[name]]
    return found


def survive(
    campaign: Path, folder: Path, workers: int, kills: int, settings: list[str], seed: int
) -> dict[str, Any]:
    """Run a campaign in peace and one that is killed; return what was measured."""
    chance = random.Random(seed)
    calm, disturbed, log = folder / "calm", folder / "disturbed", folder / "log.txt"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("ab") as file:
        subprocess.run(
            command(campaign, calm, workers, settings), stdout=file, stderr=file, check=True
        )
    seconds = time.monotonic() - started
    total = finished(calm)
    words = command(campaign, disturbed, workers, settings)
    died_at = []
    for moment in sorted(chance.sample(range(1, total), kills)):
        delay = chance.uniform(0.0, seconds / total)
        died_at.append(run_and_kill(words, log, moment, delay, disturbed))
    with log.open("ab") as file:
        last = subprocess.run(words, stdout=file, stderr=file, check=False).returncode
    return {
        "runs": total,
        "seconds_undisturbed": round(seconds, 1),
        "killed_after_runs": died_at,
        "exit_code": last,
        "differing_files": differences(calm, disturbed),
    }


def main(
    campaign: Annotated[Path, typer.Option(help="Campaign file.")] = CAMPAIGN,
    folder: Annotated[Path | None, typer.Option(help="Where the runs go.")] = None,
    workers: Annotated[int, typer.Option(help="Runs at a time.")] = 2,
    kills: Annotated[int, typer.Option(help="How often it is killed.")] = 2,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Field of base.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
) -> None:
    """Print what was measured; exit 1 if a result file differs or a kill came too late."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    where = folder or Path(tempfile.mkdtemp(prefix="survival-"))
    found = survive(campaign, where, workers, kills, settings or [], seed)
    print(json.dumps({**found, "folder": str(where)}, indent=2))
    fine = found["exit_code"] == 0 and not found["differing_files"]
    raise typer.Exit(0 if fine and -1 not in found["killed_after_runs"] else 1)


if __name__ == "__main__":
    typer.run(main)
