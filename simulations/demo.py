"""Plain averaging and geminiguard under the same attack and seed, in one small table."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from fedguard.config import parse
from fedguard.reporting.opening import opening_lines
from fedguard.reporting.progress import Progress
from fedguard.reporting.report import write_report
from fedguard.reporting.streams import settle_flower
from fedguard.reporting.summary import render_comparison
from fedguard.runs.simulation import Simulation

STRATEGIES = ("fedavg", "geminiguard")


def run(strategy: str, attack: str | None, out: Path) -> dict[str, Any]:
    """Run the main job under one strategy; return its summary."""
    values: dict[str, Any] = {"strategy": strategy}
    if attack is not None:
        values["attack"] = attack
    config = parse(values)
    with Progress(config.rounds, enabled=True) as progress:
        for line in opening_lines(config):
            progress.note(line)
        summary = Simulation(config).run(out, on_round=progress.update)
    write_report(out)
    return summary


def main() -> None:
    """Run both and say where the reports are."""
    settle_flower()
    Path("runs").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir="runs"))
    reference = run("fedavg", "none", folder / "fedavg-without-attack")
    reference["strategy"] = "no attack"
    attacked = [run(strategy, None, folder / strategy) for strategy in STRATEGIES]
    first = attacked[0]
    console = Console(file=sys.stdout)
    console.print(
        f"\n{first['clients']} clients share {first['dataset']}; {first['malicious']} of them lie "
        f"({first['attack']}). No defence knows which.\n"
    )
    console.print(render_comparison([reference, *attacked]))
    console.print("\nLook at who was rejected and when, in your browser:")
    for strategy in STRATEGIES:
        console.print(f"  {folder / strategy / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    main()
