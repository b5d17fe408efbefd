"""``fedguard sweep CAMPAIGN.yaml``: every run of a grid, packed over the machine, once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedguard.campaigns.campaign import Campaign, Cell, read_campaign
from fedguard.campaigns.cells import read_error
from fedguard.campaigns.plan import Pace, Plan, check_cells, plan_record, probe, write_record
from fedguard.campaigns.pool import Sweep
from fedguard.campaigns.progress import SweepProgress
from fedguard.config import read_setting
from fedguard.errors import ConfigurationError
from fedguard.reporting.wording import duration

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command()
def sweep(
    campaign: Annotated[Path, typer.Argument(help="Campaign file, YAML.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The campaign's folder; runs/NAME if left out.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Runs at a time; 0 or 1: in this process. All cores if left out."),
    ] = None,
    threads: Annotated[int, typer.Option(help="PyTorch threads of each run.")] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a field of base: rounds=5.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what failed before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its estimated cost, then stop.")
    ] = False,
    probing: Annotated[
        bool, typer.Option("--probe", help="Estimate from one round of each strategy.")
    ] = False,
    track: Annotated[
        list[str] | None, typer.Option(help="tensorboard, mlflow or wandb; may be repeated.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end.")
    ] = False,
) -> None:
    """Run every combination of a campaign file's lists, each once.

    The same command goes on after Ctrl-C, a crash or a power cut: finished runs are kept, the
    others go on from their last finished round. A run that fails is recorded in its directory's
    error.json and does not stop the rest; --retry-failed runs it again.

    Exit codes: 0 all runs are done, 1 some failed, 2 the campaign is not valid.
    """
    from rich.console import Console

    from fedguard.reporting.tracking import check_trackers

    console = Console(stderr=True)
    trackers = check_trackers(track or ())
    given = read_campaign(campaign, dict(map(read_setting, settings or [])))
    cells, folder = checked(given, out, workers, threads)
    plan = Plan.of(cells, folder)
    if dry_run:
        pace = probe(cells) if probing else plan.pace()
        _print_plan(plan, pace, worker_count(workers), retry_failed, probing, as_json)
        return
    done = carry_out(
        given,
        plan,
        workers=workers,
        threads=threads,
        retry_failed=retry_failed,
        trackers=trackers,
        console=console,
    )
    raise typer.Exit(_conclude(done, console, as_json))


def checked(
    campaign: Campaign, out: Path | None, workers: int | None, threads: int
) -> tuple[list[Cell], Path]:
    """Return a campaign's runs and its folder, once everything is known to fit.

    Raises
    ------
    ConfigurationError
        If a run, the folder or a number is not valid; nothing is written.
    """
    cells = campaign.cells()
    folder = out if out is not None else Path("runs") / campaign.name
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError("out", str(folder), "a folder")
    for name, value in (("--workers", workers), ("--threads", threads)):
        if value is not None and value < (name == "--threads"):
            raise ConfigurationError(name, value, "a whole number, not negative; threads from 1")
    check_cells(cells)
    return cells, folder


def carry_out(
    campaign: Campaign,
    plan: Plan,
    *,
    workers: int | None,
    threads: int,
    retry_failed: bool,
    console: Console,
    trackers: tuple[str, ...] = (),
) -> Plan:
    """Run what is left of a campaign with progress on a console; return how it stands then."""
    cells, count = [cell for cell, _ in plan.states], worker_count(workers)
    write_record(campaign, cells, plan.folder)
    to_do = plan.to_do(retry_failed)
    with SweepProgress(len(cells), plan.pace(), to_do, count, console) as progress:
        Sweep(plan, count, threads, trackers).execute(to_do, progress)
    return Plan.of(cells, plan.folder)


def worker_count(workers: int | None) -> int:
    """Return the runs at a time: as asked, otherwise one for each core."""
    return _default_workers() if workers is None else workers


def _default_workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print_plan(
    plan: Plan, pace: Pace, workers: int, retry_failed: bool, probed: bool, as_json: bool
) -> None:
    record = plan_record(plan, pace, workers, retry_failed, probed)
    if as_json:
        print(json.dumps(record))
        return
    for cell, state in plan.states:
        print(f"{state:8} {cell.directory}  {cell.label}")
    states = ", ".join(f"{count} {state}" for state, count in record["states"].items())
    print(f"{record['runs']} runs in {plan.folder}: {states}; {record['to_do']} to do")
    seconds = record["estimated_seconds"]
    if seconds is None:
        print("cost: unknown before the first finished run; --probe tries a round per strategy")
    else:
        print(
            f"cost: about {duration(seconds)} with {workers} workers, "
            f"judged by {record['estimated_from']}"
        )


def _conclude(plan: Plan, console: Any, as_json: bool) -> int:
    """Say how the campaign stands; return the exit code."""
    failed = plan.failed()
    done = sum(state == "done" for _, state in plan.states)
    for cell in failed:
        error = read_error(plan.folder / cell.directory)
        console.print(f"failed: {cell.directory}: {error}", markup=False, soft_wrap=True)
    again = "; --retry-failed runs them again" if failed else ""
    console.print(
        f"{done} of {len(plan.states)} runs done, {len(failed)} failed{again}\n"
        f"fedguard compare {plan.folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if as_json:
        record = {"folder": str(plan.folder), "runs": len(plan.states), "done": done}
        print(json.dumps({**record, "failed": [cell.directory for cell in failed]}))
    return 1 if failed or done < len(plan.states) else 0
